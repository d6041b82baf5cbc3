"""
Pays the gas of payers' approvals of Permit2, so that a payer needs no coin.

What a payer lacks is sent to it, and may be taken away before its approval is mined;
what its approval does not use stays with it. That is what can be lost, so its payer
may not sign for much more than the approval needs (`fee_most`), and it is capped for
each approval, for each payer and hour, and in total, and spent only on what would go
through.

Source: x402 `specs/extensions/erc20_gas_sponsoring.md`. It asks for one atomic bundle,
which chains do not offer; here each step is simulated and mined before the next.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from agentpay.errors import (
    ChainError,
    ChainUnreachable,
    GasLimitReached,
    StoreError,
    StoreOutcomeUnknown,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import allowance_call
from agentpay.evm.approval import (
    APPROVAL_GAS,
    ApprovalTransaction,
    SignedApproval,
)
from agentpay.evm.calls import Call, Receipt, Standing
from agentpay.evm.eip3009_abi import balance_call
from agentpay.evm.erc6492 import inner_signature
from agentpay.evm.permit2_signed import Permit2Deposit, Permit2Transfer
from agentpay.facilitator.gas import GasSpending
from agentpay.onchain import is_signature_of, is_used, read_words
from agentpay.ports import Chain
from agentpay.sending_ports import Relay
from agentpay.types import Address

GAS_MIN: Final = 30_000
GAS_MAX: Final = APPROVAL_GAS
"""What a payer's approval may ask for: as much as ours and official clients do."""
FEE_TIMES: Final = 4
"""
Payers sign 1.2 times the base fee, or twice, and a tip. It may halve until they pay.
"""
FEE_ALWAYS: Final = 10**9
"""
What official clients sign if they know no price (`DEFAULT_MAX_FEE_PER_GAS`).

So where gas costs less, one approval can take 0.00007 ether of us at most.
"""

Sponsored = Permit2Transfer | Permit2Deposit
SPONSORED: Final = (Permit2Transfer, Permit2Deposit)

Send = Callable[[Call], Awaitable[Receipt]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SponsorLimits:
    """What approvals may cost whoever pays for them, in wei."""

    wei_each: int
    """For one approval, and for all of a payer in an hour."""
    wei_per_hour: int
    """For all payers."""


class Sponsor:
    """Has approvals mined, for one facilitator. Belongs to one event loop."""

    def __init__(
        self,
        *,
        chain: Chain,
        relay: Relay,
        limits: SponsorLimits,
        clock: Callable[[], float],
    ) -> None:
        self._chain = chain
        self._relay = relay
        self._limits = limits
        self._spending = GasSpending(
            per_hour=limits.wei_per_hour,
            per_payee_hour=limits.wei_each,
            clock=clock,
        )
        self._locks: WeakValueDictionary[Address, asyncio.Lock] = WeakValueDictionary()

    async def is_needed(self, signed: Sponsored) -> bool:
        """Whether Permit2 may not move what is signed, and an approval comes along."""
        if signed.approval is None:
            return False
        owner, token = signed.approval.owner, signed.asset.address
        call = allowance_call(token, owner=owner, spender=PERMIT2)
        (allowance,) = await read_words(self._chain, [call])
        return allowance < _amount(signed)

    async def check(self, signed: Sponsored) -> None:
        """
        Whether an approval would be mined, for a payment that could follow it.

        Raises:
            TransactionFailed: It would not, or would cost too much.
            ChainError: The chain could not be asked.
        """
        if signed.approval is not None:
            await self._missing(signed, signed.approval)

    async def grant(self, signed: Sponsored, send: Send) -> None:
        """
        Have an approval mined, unless what it allows is allowed already.

        `send` pays gas for a call of ours. Safe to repeat.

        Raises:
            TransactionFailed: It was not, and will not be.
            ChainError: Perhaps; ask again.
        """
        if signed.approval is None:
            return
        approval, owner = signed.approval, signed.approval.owner
        lock = self._locks.setdefault(owner, asyncio.Lock())
        async with lock:
            if not await self.is_needed(signed):
                return
            missing = await self._missing(signed, approval)
            with before_the_payment(f"approval of {owner}"):
                if missing:
                    await self._fund(owner, missing, send)
                await self._relay.send(approval.signed)

    async def _missing(self, signed: Sponsored, approval: SignedApproval) -> int:
        """The wei that its signer lacks to have it mined."""
        owner, what = approval.owner, f"approval of {approval.owner}"
        standing = await self._chain.standing(owner)
        missing = max(0, approval.approval.cost - standing.balance)
        wrong = self._wrong(approval.approval, standing)
        if wrong is None:
            wrong = await self._uncovered(signed, owner)
        if wrong is None and not self._spending.allows(owner, missing):
            wrong = "no more is paid for it in this hour"
        if wrong is not None:
            raise TransactionFailed(what, reason=wrong)
        await self._relay.simulate(approval.signed)
        return missing

    def _wrong(self, fields: ApprovalTransaction, standing: Standing) -> str | None:
        """Why an approval would not be mined, or not be paid for."""
        if not GAS_MIN <= fields.gas <= GAS_MAX:
            return f"it has {fields.gas} gas, and may have {GAS_MIN} to {GAS_MAX}"
        if fields.cost > self._limits.wei_each:
            return f"it costs {fields.cost} wei, and may {self._limits.wei_each}"
        if fields.nonce != standing.nonce:
            return f"its nonce is {fields.nonce}, the account's {standing.nonce}"
        if not fields.tip <= fields.fee_max >= standing.base_fee:
            return f"{fields.fee_max} wei for each gas is too little"
        if fields.cost > standing.balance and fields.fee_max > fee_most(standing):
            return f"{fields.fee_max} wei for each gas is too much to pay for"
        return None

    async def _uncovered(self, signed: Sponsored, owner: Address) -> str | None:
        """Why the payment could not follow its approval."""
        balance = balance_call(signed.asset.address, owner)
        (held,) = await read_words(self._chain, [balance])
        if held < _amount(signed):
            return "insufficient_funds"
        if await is_used(self._chain, signed):
            return "the payment was used or cancelled"
        # An account with code is asked, and not its key (EIP-7702), as Permit2 does.
        if await self._chain.code(owner) and not await is_signature_of(
            self._chain, owner, signed.digest(), inner_signature(signed.signature)
        ):
            return "the code of its account does not take its signature"
        return None

    async def _fund(self, owner: Address, missing: int, send: Send) -> None:
        spent = self._spending.reserve(owner, missing)
        what = f"send {missing} wei to {owner}"
        try:
            await send(Call(to=owner, data=b"", value=missing, what=what))
        except (TransactionOutcomeUnknown, StoreOutcomeUnknown):
            raise  # perhaps it was sent, or will be by who finds it recorded
        except (ChainError, StoreError):
            self._spending.correct(spent, 0)
            raise


def fee_most(standing: Standing) -> int:
    """What we pay for each gas of an approval: its payer keeps what that leaves."""
    return max(FEE_TIMES * (standing.base_fee + standing.tip), FEE_ALWAYS)


@contextmanager
def before_the_payment(what: str) -> Generator[None]:
    """
    A transaction before the one that moves the money: what became of it is not what
    became of the payment, which was not sent yet.
    """
    try:
        yield
    except (TransactionFailed, GasLimitReached) as error:
        raise TransactionFailed(what, reason=str(error)) from error
    except TransactionOutcomeUnknown as error:
        raise ChainUnreachable(f"{error}: ask again for what follows it") from error


def _amount(signed: Sponsored) -> int:
    return signed.maximum if isinstance(signed, Permit2Transfer) else signed.amount
