"""
One voucher for one request: what it says, and how its answers are booked.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from agentpay.core.budget import BudgetEvent, Spent
from agentpay.core.exchange import (
    Booking,
    ChannelAnswer,
    Next,
    Verdict,
    judge,
    next_of_carried,
)
from agentpay.core.payer_channel import (
    DepositArrived,
    PayerEvent,
    PendingDeposit,
    SpentReported,
    TicketArrived,
    TicketCharged,
    TicketOld,
    TicketVoid,
)
from agentpay.errors import MalformedMessage
from agentpay.evm.batch_settlement import voucher_digest
from agentpay.evm.signature import BadSignature, recover
from agentpay.payer.approvals import Approval
from agentpay.payer.channel_kind import VoucherPayment
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Answer, Judgement
from agentpay.payer.policy import scale
from agentpay.records import PayerRecord, channel_config
from agentpay.types import Hash32, parse_amount
from agentpay.wire.voucher_receipts import VoucherReceipt, read_receipt
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    Requirements,
    parse_payment_required,
)


async def never(*, soon: bool = True) -> bool:
    """No deposit was made."""
    del soon
    return False


def unheard(salt: Hash32) -> None:
    """No deposit goes along."""
    del salt


async def nothing(payment: VoucherPayment) -> None:
    """A question is asked by who wants to know."""
    del payment


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPayment:
    """A signed voucher, for one request only. Implements `Payment`."""

    ledger: PayerLedger
    record: PayerRecord
    cumulative: int
    maximum: int
    credential: str
    deposit: PendingDeposit | None
    leave: Callable[[VoucherPayment], Awaitable[None]]
    left: Callable[[VoucherPayment], Awaitable[None]]
    header: str = PAYMENT_SIGNATURE
    again: bool = False
    """Whether an earlier request has presented it."""
    approval: Approval = field(default_factory=Approval)
    """Of Permit2, for a deposit that goes along."""
    read_receipt: Callable[[str], VoucherReceipt | None] = read_receipt
    is_made: Callable[..., Awaitable[bool]] = never
    """Whether the chain shows that deposit; with `soon`, now or in a while."""
    refused: Callable[[Hash32], None] = unheard
    """Told of that deposit's salt, where its payee refuses it."""

    @property
    def id(self) -> str:
        return f"{self.record.channel}:{self.cumulative}"

    async def leave_open(self) -> None:
        """See `Payment.leave_open`."""
        self.approval.end()
        await self.left(self)

    def carried_on(self) -> "ChannelPayment":
        """See `VoucherPayment.carried_on`."""
        return replace(self, again=True)

    async def broke_off(self) -> None:
        """See `Payment.broke_off`: its payee may have kept the whole of it."""
        await self.left(self)

    async def renew(self, offer: Offer) -> None:
        """See `Payment.renew`: in x402 an offer is over when its payment is."""
        del offer

    async def book(self, answer: Answer, *, resent: bool) -> Judgement:
        """See `Payment.book`."""
        receipt = self._receipt(answer)
        tagged = self.record.ledger.tagged
        spent = 0 if tagged else await self.ledger.spent(self.record.channel)
        read = self._read(answer, receipt, spent)
        verdict = judge(
            read, tagged=tagged, spent=spent, maximum=self.maximum, resent=resent
        )
        # Who corrects our total makes no deposit: there is nothing to wait for.
        refused = answer.status == 402 and receipt is None
        await self._write(verdict, receipt, soon=not refused)
        reason = (receipt.reason if receipt else "") or answer.error
        following = verdict.next
        if self.deposit is not None and following is Next.PAY_AGAIN:
            following = Next.REJECTED  # the deposit failed: do not sign another
        if self.deposit is not None and following is Next.REJECTED:
            self.refused(self.deposit.salt)
        if self.again and following is Next.LOST:
            following = next_of_carried(verdict)
        if following is not Next.RESEND:
            self.approval.end()
        if verdict.booking is Booking.OPEN and following in (
            Next.DELIVER,
            Next.REJECTED,
        ):
            no_answer = following is Next.DELIVER and answer.status >= 500
            await (self.left(self) if no_answer else self.leave(self))
        return Judgement(
            next=following,
            charged=verdict.charged,
            reason=reason,
            final=verdict.booking not in (Booking.OPEN, Booking.ARRIVED),
            streams=following is Next.DELIVER and verdict.booking is Booking.ARRIVED,
        )

    def _receipt(self, answer: Answer) -> VoucherReceipt | None:
        """
        Its receipt, unless that is another channel's.

        Source: x402 `scheme_batch_settlement_evm.md`, "Client Verification Rules". We
        do not leave a payee that mixed receipts up: its voucher stays open and is asked
        about, and counts as spent. What it says of the balance is not compared: nothing
        is signed on that word, and a deposit may rightly count for less until final.
        """
        header = answer.headers.get(PAYMENT_RESPONSE.lower())
        receipt = self.read_receipt(header) if header is not None else None
        if receipt is None or receipt.channel in (None, self.record.channel):
            return receipt
        return None

    def _read(
        self, answer: Answer, receipt: VoucherReceipt | None, spent: int
    ) -> ChannelAnswer:
        ours = receipt if receipt and receipt.named == self.cumulative else None
        charged = receipt.charged if receipt else None
        error = answer.error
        corrected = self._corrected(answer, spent) if answer.status == 402 else None
        return ChannelAnswer(
            status=answer.status,
            success=receipt.success if receipt else None,
            fate=ours.fate if ours else None,
            repeated=ours.repeated if ours else False,
            charged=ours.named_charged if ours else charged,
            corrected=corrected,
            offered=PAYMENT_REQUIRED.lower() in answer.headers,
            busy=error.endswith("channel_busy"),
        )

    def _corrected(self, answer: Answer, spent: int) -> int | None:
        """
        The total of a corrective 402: just what we have spent, or one that it proves
        with a voucher that we really signed.
        """
        if self.record.ledger.tagged:
            return None
        header = answer.headers.get(PAYMENT_REQUIRED.lower())
        if header is None:
            return None
        try:
            offers = parse_payment_required(header).readable_offers()
        except MalformedMessage:
            return None
        for requirements, _ in offers:
            if requirements.scheme == BATCH_SETTLEMENT:
                total = self._proven_total(requirements, spent)
                if total is not None:
                    return total
        return None

    def _proven_total(self, requirements: Requirements, spent: int) -> int | None:
        state = requirements.extra.get("channelState")
        proof = requirements.extra.get("voucherState")
        if not isinstance(state, dict):
            return None
        named = str(state.get("channelId", self.record.channel))
        if named.lower() != self.record.channel:
            return None
        try:
            total = parse_amount(str(state.get("chargedCumulativeAmount")))
            if total == spent:
                return total
            if not isinstance(proof, dict):
                return None
            signed = parse_amount(str(proof.get("signedMaxClaimable")))
            signature = bytes.fromhex(str(proof.get("signature")).removeprefix("0x"))
            digest = voucher_digest(self.record.channel, signed, self.record.chain)
            signer = recover(digest, signature)
        except (ValueError, BadSignature):
            return None
        ours = signer == channel_config(self.record).payer_authorizer
        return total if ours and total <= signed else None

    async def _write(
        self, verdict: Verdict, receipt: VoucherReceipt | None, *, soon: bool
    ) -> None:
        events: list[PayerEvent] = []
        money: tuple[BudgetEvent, ...] = ()
        arrived = verdict.booking in (Booking.CHARGED, Booking.ARRIVED)
        # Its payee's word is not enough: what it did not make, it may still make.
        if self.deposit is not None and arrived and await self.is_made(soon=soon):
            events.append(DepositArrived(salt=self.deposit.salt))
            amount = scale(self.deposit.amount, self.record.decimals)
            money = (Spent(id=f"deposit {self.deposit.salt}", amount=amount),)
        if receipt is not None and receipt.total is not None:
            events.append(SpentReported(charged=receipt.total))
        booked = event_of(verdict, self.cumulative)
        if booked is not None:
            events.append(booked)
        if not events:
            return
        said = await self.ledger.book(self.record.channel, *events, money=money)
        self.ledger.check_honest(self.record, *said)


def event_of(verdict: Verdict, cumulative: int) -> PayerEvent | None:
    """What is booked of a voucher; None while it is open."""
    match verdict.booking:
        case Booking.CHARGED:
            return TicketCharged(cumulative=cumulative, charged=verdict.charged)
        case Booking.VOID:
            return TicketVoid(cumulative=cumulative)
        case Booking.OLD:
            return TicketOld(cumulative=cumulative)
        case Booking.ARRIVED:
            return TicketArrived(cumulative=cumulative)
        case Booking.OPEN:
            return None
