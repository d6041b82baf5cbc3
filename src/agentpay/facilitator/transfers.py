"""
Verifies and settles single transfers, `exact` and `upto`, for payees that ask.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from agentpay.errors import MalformedMessage, TransactionFailed
from agentpay.evm.calls import Receipt
from agentpay.evm.transfer import Transfer
from agentpay.facilitator.embedded import Facilitator
from agentpay.facilitator.once import Refused, SettledOnce
from agentpay.facilitator.outcomes import transfer_result
from agentpay.onchain import find_transfer, is_used, read_balance, wrong_signature
from agentpay.ports import Chain
from agentpay.records import Settled
from agentpay.shortage import ALLOWANCE_REQUIRED, Lack, lack_of
from agentpay.types import Address, Asset
from agentpay.wire.x402 import UPTO, Extension, Permit2Payload, Requirements
from agentpay.wire.x402_approvals import SignedApprovals, read_approvals
from agentpay.wire.x402_facilitator import INVALID_PAYLOAD, UNSUPPORTED
from agentpay.wire.x402_transfers import (
    TransferPayload,
    read_transfer,
    signature_code,
    wrong_terms,
    wrong_time,
)

_FAILED = "invalid_transaction_state"
_POOR = "insufficient_funds"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferAsked:
    """One transfer that a payee asks about, as the message has it."""

    payload: TransferPayload
    wanted: Requirements
    asset: Asset
    extensions: Mapping[str, Extension]

    @property
    def payer(self) -> Address:
        if isinstance(self.payload, Permit2Payload):
            return self.payload.permit2_authorization.payer
        return self.payload.authorization.payer

    @property
    def maximum(self) -> int:
        if isinstance(self.payload, Permit2Payload):
            return self.payload.permit2_authorization.permitted.amount
        return self.payload.authorization.value

    @property
    def bound(self) -> Address | None:
        """Who alone may send it."""
        if isinstance(self.payload, Permit2Payload):
            return self.payload.permit2_authorization.witness.facilitator
        return None

    def read_approvals(self, *, sponsors: bool) -> SignedApprovals | None:
        """
        The approval that goes along.

        Raises:
            MalformedMessage: It is not one, or not of this payment.
        """
        if not isinstance(self.payload, Permit2Payload):
            return None
        return read_approvals(
            self.extensions,
            self.asset,
            payer=self.payer,
            amount=self.maximum,
            sponsors=sponsors,
        )


class SettlesTransfers(Protocol):
    """Whoever sends transfers: one by one, or many at once."""

    async def settle_transfer(self, transfer: Transfer, amount: int) -> Settled:
        """See `Settler.settle_transfer`."""
        ...


class TransferDesk:
    """Takes single transfers for one facilitator."""

    def __init__(
        self,
        *,
        chain: Chain,
        facilitator: Facilitator,
        sends: SettlesTransfers,
        once: SettledOnce,
        clock: Callable[[], float],
    ) -> None:
        self._chain = chain
        self._facilitator = facilitator
        self._sends = sends
        self._once = once
        self._clock = clock
        self._under_way: dict[str, tuple[Transfer, int]] = {}
        """What is sent now, and how much of it, as it came."""

    async def verify(self, asked: TransferAsked) -> Refused | None:
        """Why a transfer would not go through."""
        transfer = await self._read(asked, amount=asked.wanted.amount)
        if isinstance(transfer, Refused):
            return transfer
        return await self._movement(transfer, transfer.maximum).check()

    async def settle(self, asked: TransferAsked) -> Settled | Refused:
        """What was moved, or why nothing was."""
        wanted = asked.wanted
        signed = asked.maximum if wanted.scheme == UPTO else wanted.amount
        transfer = await self._read(asked, amount=signed)
        if isinstance(transfer, Refused):
            return transfer
        if wanted.amount > transfer.maximum:
            return Refused(code="invalid_upto_evm_payload_settlement_exceeds_amount")
        if wanted.amount == 0:  # `upto` that was free in the end
            return Settled(transaction="", amount=0)
        return await self._once.settle(self._movement(transfer, wanted.amount))

    async def _read(self, asked: TransferAsked, *, amount: int) -> Transfer | Refused:
        """The transfer, if nothing is wrong with it whatever the chain's state is."""
        ours = self._facilitator.addresses
        code = wrong_terms(
            asked.payload,
            asked.wanted.scheme,
            asset=asked.asset,
            pay_to=asked.wanted.pay_to,
            amount=amount,
            facilitator=asked.bound if asked.bound in ours else ours[0],
        )
        if code is not None:
            return Refused(code=code)
        try:
            approvals = asked.read_approvals(sponsors=self._facilitator.sponsors)
        except MalformedMessage as error:
            return Refused(code=INVALID_PAYLOAD, message=str(error))
        transfer = read_transfer(asked.payload, asked.asset, approvals=approvals)
        lack = await self._facilitator.contracts.lack(transfer)
        if lack is not None:
            return Refused(code=UNSUPPORTED, message=lack)
        code = await wrong_signature(
            self._chain,
            transfer.payer,
            transfer.digest(),
            transfer.signature,
            factories=self._facilitator.wallet_factories,
            code=signature_code(transfer),
        )
        return transfer if code is None else Refused(code=code)

    def _movement(self, transfer: Transfer, amount: int) -> "TransferMovement":
        return TransferMovement(
            chain=self._chain,
            facilitator=self._facilitator,
            sends=self._sends,
            clock=self._clock,
            transfer=transfer,
            amount=amount,
            under_way=self._under_way,
        )


class TransferMovement:
    """One transfer, of `amount` of what was signed for; see `Movement`."""

    failed_code = _FAILED

    def __init__(
        self,
        *,
        chain: Chain,
        facilitator: Facilitator,
        sends: SettlesTransfers,
        clock: Callable[[], float],
        transfer: Transfer,
        amount: int,
        under_way: dict[str, tuple[Transfer, int]],
    ) -> None:
        self._chain = chain
        self._facilitator = facilitator
        self._sends = sends
        self._clock = clock
        self._transfer = transfer
        self._amount = amount
        self._under_way = under_way

    @property
    def id(self) -> str:
        return self._transfer.id

    @property
    def payer(self) -> Address:
        return self._transfer.payer

    @property
    def maximum(self) -> int:
        return self._transfer.maximum

    @property
    def valid_before(self) -> int:
        return self._transfer.valid_before

    def digest(self) -> bytes:
        """See `Movement.digest`."""
        return self._transfer.digest()

    async def check(self) -> Refused | None:
        """See `Movement.check`; simulated first, and asked why only if it fails."""
        late = wrong_time(self._transfer, int(self._clock()))
        if late is not None:
            return Refused(code=late)
        try:
            await self._facilitator.verify(self._transfer)
        except TransactionFailed as error:
            if await is_used(self._chain, self._transfer):
                return Refused(code=_FAILED, message="it was used or cancelled")
            match await lack_of(self._chain, self._transfer, self._amount):
                case Lack.ALLOWANCE:
                    return Refused(code=ALLOWANCE_REQUIRED)
                case Lack.BALANCE:
                    return Refused(code=_POOR)
                case None:
                    return Refused(code=_FAILED, message=error.reason)
        return Refused(code=_POOR) if await self._is_short() else None

    async def _is_short(self) -> bool:
        """
        Whether its payer cannot pay for what came before it and is under way, too.

        Each alone would go through, and all but the first would cost gas in vain.
        """
        ours = self._transfer
        before: list[tuple[Transfer, int]] = []
        for transfer, amount in self._under_way.values():
            if transfer.id == ours.id:
                break
            if (transfer.payer, transfer.asset) == (ours.payer, ours.asset):
                before.append((transfer, amount))
        most = sum(amount for _, amount in before) + self._amount
        if not before or await self._holds(most):
            return False
        sent = [transfer for transfer, _ in before]
        held, used = await read_balance(self._chain, ours.asset, ours.payer, sent)
        # What is mined, and not told yet, is paid for.
        due = sum(
            amount
            for (_, amount), is_paid in zip(before, used, strict=True)
            if not is_paid
        )
        return held < due + self._amount

    async def _holds(self, amount: int) -> bool:
        """Whether its payer has so much, which most have: no more is asked of those."""
        ours = self._transfer
        held, _ = await read_balance(self._chain, ours.asset, ours.payer, ())
        return held >= amount

    async def found(self) -> Settled | Refused | None:
        """See `Movement.found`."""
        if not await is_used(self._chain, self._transfer):
            return None
        receipt = await find_transfer(self._chain, self._transfer)
        if receipt is None:
            return Refused(code=_FAILED, message="it was used or cancelled")
        return self.result(receipt)

    async def send(self) -> Settled:
        """See `Movement.send`."""
        self._under_way[self.id] = self._transfer, self._amount
        try:
            if await self._is_short():
                what = f"transfer from {self.payer}"
                raise TransactionFailed(what, reason=_POOR)
            return await self._sends.settle_transfer(self._transfer, self._amount)
        finally:
            self._under_way.pop(self.id, None)

    def result(self, receipt: Receipt) -> Settled:
        """See `Movement.result`."""
        return transfer_result(self._transfer, receipt)
