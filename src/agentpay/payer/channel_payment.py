"""
One voucher for one request: what it says, and how its answers are booked.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from agentpay.core.budget import BudgetEvent, Spent
from agentpay.core.exchange import (
    Booking,
    ChannelAnswer,
    Next,
    Presented,
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
    TotalShown,
)
from agentpay.payer.approvals import Approval
from agentpay.payer.channel_kind import VoucherPayment
from agentpay.payer.corrected import read_corrected
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Answer, Judgement
from agentpay.payer.policy import scale
from agentpay.payer.underway import Whereabouts, ended
from agentpay.records import PayerRecord
from agentpay.types import Hash32
from agentpay.wire.voucher_receipts import VoucherReceipt, read_receipt
from agentpay.wire.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
)

_GATEWAYS: Final = frozenset({408, 502, 504, *range(520, 531)})
"""What a server before the payee's says of it: a request may run behind that."""
_TURNED_AWAY: Final = frozenset({402, 429, 503})
"""What says of a request that it is not let in: nothing of one that was sent before."""


async def never(*, soon: bool = True) -> bool:
    """No deposit was made."""
    del soon
    return False


def unheard(salt: Hash32) -> None:
    """No deposit goes along."""
    del salt


async def nothing(payment: VoucherPayment, *, heard: bool = False) -> None:
    """A question is asked by who wants to know."""
    del payment, heard


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPayment:
    """A signed voucher, for one request only. Implements `Payment`."""

    ledger: PayerLedger
    record: PayerRecord
    cumulative: int
    maximum: int
    credential: str
    deposit: PendingDeposit | None
    leave: Callable[..., Awaitable[None]]
    left: Callable[..., Awaitable[None]]
    header: str = PAYMENT_SIGNATURE
    again: bool = False
    """Whether an earlier request has presented it."""
    approval: Approval = field(default_factory=Approval)
    """Of Permit2, for a deposit that goes along."""
    read_receipt: Callable[[str], VoucherReceipt | None] = read_receipt
    is_made: Callable[..., Awaitable[bool]] = never
    """Whether the chain shows that deposit; with `soon`, now or in a while."""
    uncarried: Callable[[Hash32], None] = unheard
    """Told of that deposit's salt, where it is not to go along again."""
    runs_seconds: float = 0
    """See `VoucherPayment.runs_seconds`."""
    underway: Whereabouts = ended
    """Where it only asks: where its request may still be, for all we know."""

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
        sent = Presented(
            cumulative=self.cumulative,
            spent=spent,
            resent=resent,
            underway=self.underway(),
        )
        verdict = judge(self._read(answer, receipt, spent), sent, tagged=tagged)
        # Who corrects our total makes no deposit: there is nothing to wait for.
        refused = answer.status == 402 and receipt is None
        await self._write(verdict, receipt, soon=not refused)
        reason = (receipt.reason if receipt else "") or answer.error
        following = verdict.next
        if self.deposit is not None and following is Next.PAY_AGAIN:
            # The deposit failed: do not sign another. It was not looked at where our
            # total was wrong: it goes along again, as it is.
            corrected = verdict.booking is Booking.TOTAL
            following = Next.PAY_AGAIN if corrected else Next.REJECTED
        if self.deposit is not None and following is Next.REJECTED:
            self.uncarried(self.deposit.salt)
        if self.again and following is Next.LOST:
            following = next_of_carried(verdict)
        if following is not Next.RESEND:
            self.approval.end()
        if verdict.booking is Booking.OPEN and following in (
            Next.DELIVER,
            Next.REJECTED,
        ):
            no_answer = following is Next.DELIVER and answer.status >= 500
            heard = _has_ended(answer.status, resent=resent)
            if following is Next.REJECTED and not resent:
                self.ledger.refused(self.id)
            await (self.left if no_answer else self.leave)(self, heard=heard)
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
        corrected = None
        if answer.status == 402 and not self.record.ledger.tagged:
            corrected = read_corrected(answer, self.record, spent)
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

    async def _write(
        self, verdict: Verdict, receipt: VoucherReceipt | None, *, soon: bool
    ) -> None:
        events: list[PayerEvent] = []
        money: tuple[BudgetEvent, ...] = ()
        arrived = verdict.booking in (Booking.CHARGED, Booking.ARRIVED, Booking.TOTAL)
        # Its payee's word is not enough: what it did not make, it may still make.
        if self.deposit is not None and arrived:
            if await self.is_made(soon=soon):
                events.append(DepositArrived(salt=self.deposit.salt))
                amount = scale(self.deposit.amount, self.record.decimals)
                money = (Spent(id=f"deposit {self.deposit.salt}", amount=amount),)
            elif receipt is not None and receipt.success:
                # Perhaps our node is late: it was made, by its payee's word.
                self.uncarried(self.deposit.salt)
        if receipt is not None and receipt.total is not None:
            late = not self.record.ledger.tagged
            events.append(SpentReported(charged=receipt.total, late=late))
        booked = event_of(verdict, self.cumulative)
        if booked is not None:
            events.append(booked)
        if not events:
            return
        said = await self.ledger.book(self.record.channel, *events, money=money)
        self.ledger.check_honest(self.record, *said)


def _has_ended(status: int, *, resent: bool) -> bool:
    """Whether an answer without a word of our voucher is the end of its request."""
    if status < 400 or status in _GATEWAYS:  # a receipt would have come with its end
        return False
    return not (resent and status in _TURNED_AWAY)


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
        case Booking.TOTAL:
            return TotalShown(cumulative=cumulative, total=verdict.total)
        case Booking.OPEN:
            return None
