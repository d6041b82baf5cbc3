"""
Which contracts something needs, and whether this chain has them.

A call to an address without code succeeds and does nothing, so a simulation of it
proves nothing: what is missing has to be known before.
"""

from typing import Final

from agentpay.errors import TransactionFailed
from agentpay.evm.addresses import (
    BATCH_SETTLEMENT,
    ERC3009_COLLECTOR,
    EXACT_PROXY,
    PERMIT2_COLLECTOR,
    UPTO_PROXY,
)
from agentpay.evm.addresses import PERMIT2 as PERMIT2_CONTRACT
from agentpay.evm.charge_permit import ChargePermit
from agentpay.evm.deposit import Deposit, TokenDeposit
from agentpay.evm.permit2_signed import Permit2Deposit, Permit2Transfer
from agentpay.evm.transfer import Transfer
from agentpay.ports import Chain
from agentpay.types import Address, Asset
from agentpay.wire.x402 import BATCH_SETTLEMENT as CHANNELS
from agentpay.wire.x402 import EIP3009, EXACT, PERMIT2, UPTO

_BY_SCHEME: Final = {
    (EXACT, EIP3009): (),
    (EXACT, PERMIT2): (PERMIT2_CONTRACT, EXACT_PROXY),
    (UPTO, PERMIT2): (PERMIT2_CONTRACT, UPTO_PROXY),
    (CHANNELS, EIP3009): (BATCH_SETTLEMENT, ERC3009_COLLECTOR),
    (CHANNELS, PERMIT2): (BATCH_SETTLEMENT, PERMIT2_CONTRACT, PERMIT2_COLLECTOR),
}


def contracts_of(scheme: str, method: str = PERMIT2) -> tuple[Address, ...]:
    """What a scheme needs, where payers' tokens are moved by a method."""
    return _BY_SCHEME[scheme, method]


def contracts_for(scheme: str, asset: Asset) -> tuple[Address, ...]:
    """What a scheme needs for a token at least, by the best method that this has."""
    by_token = asset.eip3009 and scheme != UPTO
    return contracts_of(scheme, EIP3009 if by_token else PERMIT2)


def _needed_by(signed: Transfer | Deposit) -> tuple[Address, ...]:
    match signed:
        case Permit2Transfer():
            return contracts_of(EXACT if signed.facilitator is None else UPTO)
        case Permit2Deposit():
            return contracts_of(CHANNELS)
        case TokenDeposit():
            return contracts_of(CHANNELS, EIP3009)
        case ChargePermit():
            return (PERMIT2_CONTRACT,)
        case _:
            return ()


class Contracts:
    """The contracts of one chain. One that is there stays, and is asked for once."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._found: set[Address] = set()

    async def first_missing(self, needed: tuple[Address, ...]) -> Address | None:
        """The first of these without code, if any."""
        for contract in needed:
            if contract in self._found:
                continue
            if not await self._chain.code(contract):
                return contract
            self._found.add(contract)
        return None

    async def lack(self, signed: Transfer | Deposit) -> str | None:
        """What this chain lacks for something that was signed, in words."""
        missing = await self.first_missing(_needed_by(signed))
        if missing is None:
            return None
        return f"there is no contract at {missing} on chain {self._chain.chain_id}"

    async def check(self, signed: Transfer | Deposit) -> None:
        """
        Raises:
            TransactionFailed: A contract that it needs is not on this chain.
        """
        lack = await self.lack(signed)
        if lack is not None:
            raise TransactionFailed("payment", reason=lack)
