"""
A request on a session of MPP that is under way, and comes to cost more as it goes on.

Source: draft-evm-session-00, "Insufficient Balance During Streaming"; rule 21 of
`docs/parallel-channels.md`. A further voucher goes by `HEAD` to the same URL, beside
the answer that is coming in. What came in is owed, so that a stream may cost far more
than the headroom, and never more than that is signed ahead of it.
"""

from agentpay.core.exchange import Next
from agentpay.core.payer_channel import Issued, Unusable
from agentpay.core.payer_session_rules import TicketDelivered
from agentpay.errors import ChannelUnusable, MalformedMessage
from agentpay.payer.channels import Channels
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Judgement, Target
from agentpay.payer.session_kind import SessionKind
from agentpay.payer.session_payment import SessionPayment
from agentpay.wire.mpp.sse import ServerEvent


class RunningRequest:
    """What a payer may still do about a request whose answer has begun."""

    def __init__(
        self,
        payment: SessionPayment,
        *,
        kind: SessionKind,
        sessions: Channels,
        ledger: PayerLedger,
        offer: Offer,
        target: Target,
    ) -> None:
        self._payment = payment
        self._kind = kind
        self._sessions = sessions
        self._ledger = ledger
        self._offer = offer
        self._target = target

    async def maximum(self) -> int:
        """What it may cost at most as of now; 0 once it is over."""
        record = await self._ledger.read(self._payment.record.channel)
        cumulative = self._payment.cumulative
        ticket = record.ledger.ticket(cumulative) if record is not None else None
        return ticket.maximum if ticket is not None else 0

    async def progress(self, delivered: int) -> None:
        """What came in of its answer by now is worth so much."""
        cumulative = self._payment.cumulative
        event = TicketDelivered(cumulative=cumulative, delivered=delivered)
        await self._ledger.book(self._payment.record.channel, event)

    async def raise_by(self, more: int, *, required: int = 0) -> bool:
        """
        Let it cost so much more, and have its payee know: true if that has it.

        With `required`, a voucher of at least so much, as a payee may ask for. False if
        there is no room now in headroom, balance or budget, or if it was refused.

        Raises:
            BudgetExceeded: The budget does not allow it, or a deposit that it needs.
            ChannelUnusable: Nothing more is signed on the session.
            KeyElsewhere: It needs a deposit, and the wallet is only watched.
            PaymentOutcomeUnknown: No answer came in time; it is asked about.
            PayeeMisbehaved: The answer contradicts our books.
            ChainError: The chain is needed for a deposit and cannot be read.
        """
        signed = await self._sign(more, required)
        if signed is None:
            return False
        try:
            inquiry = self._sessions.inquiry
            judged = await inquiry.present(signed, "HEAD", self._target.url)
        except BaseException:  # also cancelled
            await signed.leave_open()
            raise
        return judged.final and judged.next is Next.DELIVER

    async def _sign(self, more: int, required: int) -> SessionPayment | None:
        channel, cumulative = self._payment.record.channel, self._payment.cumulative
        record = await self._ledger.read(channel)
        if record is not None:
            ledger = record.ledger
            more = max(more, required - ledger.spent - ledger.outstanding)
        said = await self._ledger.raise_ticket(
            channel,
            cumulative=cumulative,
            more=more,
            host=self._target.host,
            wish=self._sessions.wish(self._offer),
        )
        if isinstance(said, Unusable):
            raise ChannelUnusable(f"session {channel}: {said.reason}")
        if not isinstance(said, Issued):
            return None
        try:
            ticketed = await self._sessions.ticketed(
                channel, said, self._offer, self._target
            )
            return await self._kind.sign_raise(ticketed, cumulative)
        except BaseException:
            # Also cancelled: the voucher has not left us, and never will.
            await self._ledger.take_back(channel, said)
            raise

    async def finish(self, event: ServerEvent | None) -> Judgement:
        """
        Book what its last event says that it cost; ask, if there is none.

        Raises:
            PayeeMisbehaved: It contradicts our books.
        """
        try:
            if event is not None:
                return await self._payment.book_end(event)
        except MalformedMessage:
            pass  # who asks is told
        await self._payment.leave_open()
        return Judgement(next=Next.DELIVER, final=False)
