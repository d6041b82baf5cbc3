"""
How the money of one payment moves: what payers sign, sign whole, or have sent already.

Whoever sells asks nothing else of a payment: whether it would go through, what it has
moved, and whether it still may.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from agentpay.errors import ChainError, TransactionFailed
from agentpay.evm.calls import Receipt
from agentpay.evm.eip1559 import SignedCall
from agentpay.evm.eip3009_abi import balance_call
from agentpay.evm.permit2_signed import Permit2Transfer
from agentpay.evm.plain_transfer import PlainTransfer
from agentpay.evm.transfer import Transfer
from agentpay.onchain import find_transfer, is_void, moved_by, read_funds, read_words
from agentpay.payee.offers import PayeeSettings
from agentpay.ports import Chain, Settler
from agentpay.records import Settled
from agentpay.sending_ports import Relay
from agentpay.shortage import Lack, lack_of
from agentpay.types import Address, ChainId, Hash32
from agentpay.wire.bazaar import Listing
from agentpay.wire.x402 import Extension, Permit2Payload
from agentpay.wire.x402_approvals import read_approvals
from agentpay.wire.x402_transfers import TransferPayload, kept_transfer, read_transfer

GAS_MAX: Final = 2**24
"""The most that a transaction may ask for (EIP-7825)."""
_KNOWN_SECONDS = 24 * 3600
"""How long a payment is known after it expired: a lost answer may be asked for."""
_FOREVER = 2**62


class Movement(Protocol):
    """
    Money of one payment, that the chain moves once.

    Every method may raise a `ChainError`: it is not known then.
    """

    @property
    def id(self) -> str:
        """See `Transfer.id`."""
        ...

    @property
    def payer(self) -> Address: ...

    @property
    def maximum(self) -> int: ...

    @property
    def done(self) -> bool:
        """Whether it has moved before anybody asked for anything."""
        ...

    @property
    def expires_at(self) -> int:
        """When the chain stops to take it, if it does at a moment that was signed."""
        ...

    @property
    def good_until(self) -> int:
        """Until when it has to be known: it buys nothing after; 0 is for ever."""
        ...

    @property
    def kept(self) -> str:
        """What is kept to settle it with after its answer has left; "" if nothing."""
        ...

    async def check(self) -> None:
        """
        Raises:
            TransactionFailed: It would not go through now.
        """
        ...

    async def found(self) -> Settled | None:
        """
        What it has moved, whoever sent it; None if nothing yet.

        Raises:
            TransactionFailed: It is mined, and moved nothing.
        """
        ...

    async def send(self, amount: int) -> Settled:
        """See `Settler.settle_transfer`."""
        ...

    async def funds(self) -> int:
        """The most that its payer could pay now."""
        ...

    async def is_over(self) -> bool:
        """Whether what was sent of it can not be mined any more, and was not."""
        ...

    async def lacks_allowance(self) -> bool:
        """Whether it is by Permit2, which may not move its token, and is not let."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferMovement:
    """A transfer that its payer signed for others to send."""

    transfer: Transfer
    chain: Chain
    facilitator: Settler
    listing: Listing | None = None
    """What its facilitator's catalogue is told of what it pays for."""

    @property
    def id(self) -> str:
        return self.transfer.id

    @property
    def payer(self) -> Address:
        return self.transfer.payer

    @property
    def maximum(self) -> int:
        return self.transfer.maximum

    @property
    def done(self) -> bool:
        return False

    @property
    def expires_at(self) -> int:
        return min(self.transfer.valid_before, _FOREVER)

    @property
    def good_until(self) -> int:
        return self.expires_at + _KNOWN_SECONDS

    @property
    def kept(self) -> str:
        return kept_transfer(self.transfer)

    async def check(self) -> None:
        """See `Movement.check`."""
        await self.facilitator.verify(self.transfer, listing=self.listing)

    async def found(self) -> Settled | None:
        """See `Movement.found`."""
        receipt = await find_transfer(self.chain, self.transfer)
        if receipt is None:
            return None
        moved = await moved_by(self.chain, self.transfer, receipt)
        return Settled(transaction=receipt.transaction, amount=moved)

    async def send(self, amount: int) -> Settled:
        """See `Movement.send`."""
        return await self.facilitator.settle_transfer(
            self.transfer, amount, listing=self.listing
        )

    async def funds(self) -> int:
        """See `Movement.funds`."""
        return await read_funds(self.chain, self.transfer)

    async def is_over(self) -> bool:
        """See `Movement.is_over`; it may be mined until it expires."""
        head = await self.chain.head()
        return head.timestamp > self.transfer.valid_before

    async def lacks_allowance(self) -> bool:
        """See `Movement.lacks_allowance`; what comes along lets it."""
        if not isinstance(self.transfer, Permit2Transfer):
            return False
        try:
            lacking = await lack_of(self.chain, self.transfer, self.maximum)
        except ChainError:
            return False
        return lacking is Lack.ALLOWANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionMovement:
    """A whole transaction that its payer signed, for us to broadcast."""

    signed: SignedCall
    transfer: PlainTransfer
    chain: Chain
    relay: Relay

    @property
    def id(self) -> str:
        return transaction_id(self.signed.call.chain, self.signed.hash)

    @property
    def payer(self) -> Address:
        return self.signed.owner

    @property
    def maximum(self) -> int:
        return self.transfer.amount

    @property
    def done(self) -> bool:
        return False

    @property
    def expires_at(self) -> int:
        return _FOREVER

    @property
    def good_until(self) -> int:
        return 0

    @property
    def kept(self) -> str:
        return ""

    async def check(self) -> None:
        """See `Movement.check`."""
        call = self.signed.call
        standing = await self.chain.standing(self.payer)
        wrong = None
        if call.nonce != standing.nonce:
            wrong = f"its nonce is {call.nonce}, the account's {standing.nonce}"
        elif call.gas > GAS_MAX:
            wrong = f"it has {call.gas} gas, and may have {GAS_MAX}"
        elif not call.tip <= call.fee_max >= standing.base_fee:
            wrong = f"{call.fee_max} wei for each gas is too little"
        elif call.cost > standing.balance:
            wrong = f"it may cost {call.cost} wei, and {standing.balance} are there"
        if wrong is not None:
            raise TransactionFailed(f"transaction of {self.payer}", reason=wrong)
        await self.relay.simulate(self.signed)

    async def found(self) -> Settled | None:
        """See `Movement.found`."""
        receipt = await self.chain.receipt(self.signed.hash)
        return None if receipt is None else self._result(receipt)

    async def send(self, amount: int) -> Settled:
        """See `Movement.send`; what a node has is not checked once more."""
        del amount
        if not await self.chain.input(self.signed.hash):
            await self.check()
        return self._result(await self.relay.send(self.signed))

    async def funds(self) -> int:
        """See `Movement.funds`."""
        balance = balance_call(self.transfer.token, self.payer)
        (held,) = await read_words(self.chain, [balance])
        return held

    async def is_over(self) -> bool:
        """See `Movement.is_over`; another one of its payer may have its nonce."""
        return await is_void(self.chain, self.signed)

    async def lacks_allowance(self) -> bool:
        """See `Movement.lacks_allowance`."""
        return False

    def _result(self, receipt: Receipt) -> Settled:
        if self.transfer.payer_in(receipt.logs) != self.payer:
            raise TransactionFailed(
                f"transfer from {self.payer}",
                reason="it left no matching Transfer event",
                transaction=receipt.transaction,
            )
        return Settled(transaction=receipt.transaction, amount=self.transfer.amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentMovement:
    """A transfer that its payer has sent, and that was looked at."""

    id: str
    payer: Address
    maximum: int
    transaction: Hash32

    @property
    def done(self) -> bool:
        return True

    @property
    def expires_at(self) -> int:
        return _FOREVER

    @property
    def good_until(self) -> int:
        return 0

    @property
    def kept(self) -> str:
        return ""

    async def check(self) -> None:
        """See `Movement.check`."""

    async def found(self) -> Settled | None:
        """See `Movement.found`."""
        return Settled(transaction=self.transaction, amount=self.maximum)

    async def send(self, amount: int) -> Settled:
        """See `Movement.send`; it is sent."""
        del amount
        return Settled(transaction=self.transaction, amount=self.maximum)

    async def funds(self) -> int:
        """See `Movement.funds`; nothing more is due."""
        return self.maximum

    async def is_over(self) -> bool:
        """See `Movement.is_over`."""
        return False

    async def lacks_allowance(self) -> bool:
        """See `Movement.lacks_allowance`."""
        return False


def read_signed(
    payload: TransferPayload,
    extensions: Mapping[str, Extension],
    settings: PayeeSettings,
) -> Transfer:
    """
    What a payer of x402 signed, with the approvals that it brings, if it needs any.

    Raises:
        MalformedMessage: An extension that it needs cannot be read.
    """
    asset, approvals = settings.asset, None
    if isinstance(payload, Permit2Payload):
        fields = payload.permit2_authorization
        approvals = read_approvals(
            extensions,
            asset,
            payer=fields.payer,
            amount=fields.permitted.amount,
            sponsors=settings.sponsors_approvals,
        )
    return read_transfer(payload, asset, approvals=approvals)


async def surely_over(movement: Movement) -> bool:
    """Whether it is known that nothing of it can be mined any more."""
    try:
        return await movement.is_over()
    except ChainError:
        return False


def transaction_id(chain: ChainId, transaction: Hash32) -> str:
    """A payer's own transaction pays once, in whatever way it is presented."""
    return f"{chain}:transaction:{transaction}"
