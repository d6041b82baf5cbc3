"""
The payee's side of a modelled session of MPP: its streams, its keeper and its escrow.

The contract pays a whole voucher, closes for ever, and lets its payer leave after a
grace period.
"""

from dataclasses import dataclass, field

from agentpay.core import payer_session_rules, session_rules
from agentpay.core.payee_channel import (
    Fate,
    HeldVoucher,
    Status,
)
from agentpay.core.payee_events import (
    Answer,
    VoucherPublished,
)
from agentpay.core.payer_channel import (
    ChannelEmptied,
    ExitWanted,
    PayerAnswer,
    PendingDeposit,
)
from agentpay.core.payer_session_rules import (
    PayerSessionEvent,
)
from agentpay.core.session_rules import (
    Extended,
    Finalized,
    SessionEvent,
)
from tests.core.channel_messages import Handler, Kind, Reply, Request
from tests.core.channel_world import World, signed

GRACE_SECONDS = 100


@dataclass(slots=True, kw_only=True)
class SessionPayeeSide(World):
    """Both books by the rules of sessions, and what payee and chain do."""

    requested_at: int | None = None
    """When the payer asked the contract to close."""
    looked: bool = True
    """Whether the payee's keeper looked since."""
    raised: set[int] = field(default_factory=set[int])
    """Amounts that the payee took without a request."""
    answered: set[int] = field(default_factory=set[int])
    taken: set[int] = field(default_factory=set[int])
    """Requests that were begun, by name: on an untagged session none runs twice."""
    reorganized: bool = False
    unsure: bool = False
    """Whether the payer had to book a request at its maximum."""

    def tell_payee(self, event: SessionEvent, *, durable: bool = True) -> Answer:
        return self.save(session_rules.apply(self.read(), event), durable=durable)

    def tell_payer(self, event: PayerSessionEvent) -> PayerAnswer:
        self.steps += 1
        transition = payer_session_rules.apply(self.payer, event)
        self.payer = transition.channel
        return transition.answer

    # The payee's application.

    def _say(
        self, request: Request, fate: Fate, charged: int, *, purpose: str = "buy"
    ) -> None:
        reply = Reply(
            cumulative=request.cumulative,
            fate=fate,
            charged=charged,
            total=self.payee.receipt_total(request.cumulative),
            accepted=self.payee.highest,
            number=request.number,
            purpose=purpose,
        )
        self.replies.append(reply)

    def _slice(self, handler: Handler, amount: int) -> int:
        """A stream asks for more than it has; a rising one draws on what is signed."""
        charged, cumulative = handler.sliced + amount, handler.request.cumulative
        if not self.payee.tagged:
            event = Extended(
                cumulative=cumulative,
                owner=handler.owner,
                maximum=charged,
                exposure_max=self.exposure_max,
            )
            self.tell_payee(event, durable=False)
        return charged

    def slice(self, cumulative: int, amount: int) -> None:
        before = self.payee.charged
        World.slice(self, cumulative, amount)
        drew = self.payee.charged > before
        assert not drew or self.payee.charged <= self.payee.spendable, (
            "a stream drew what cannot be had"
        )

    def finish(self, cumulative: int, amount: int) -> None:
        """A stream ends at what it drew, and its receipt comes last."""
        handler = self.handlers[cumulative]
        if handler.request.kind is Kind.STREAM and not handler.answered:
            self.fail(cumulative)
        else:
            World.finish(self, cumulative, amount)

    def _answer(self, handler: Handler, charged: int) -> None:
        self.answered.add(handler.request.number)
        if handler.hears_payer:
            self._say(handler.request, Fate.CHARGED, charged)

    # The escrow, and the payee's keeper.

    def see_chain(self) -> None:
        """What the payee makes of a look at the escrow."""
        World.see_chain(self)
        if self.ended:
            self.tell_payee(Finalized())

    def _collect(self, deposit: PendingDeposit | None) -> None:
        """A top-up takes back that its payer asked to close (rule 24)."""
        before = self.balance
        if not self.ended:
            World._collect(self, deposit)
        if self.balance > before and self.requested_at is not None:
            self.requested_at, self.withdrawing = None, 0
            self.see_chain()

    def claim(self) -> None:
        """A routine settle takes nothing that is not due."""
        if self.ended:
            return
        voucher, said = self.payee.settle_voucher(), self.payee.unclaimed
        brings = voucher.amount - self.claimed if voucher is not None else 0
        assert said == brings, "not what a settle would bring"
        if voucher is not None:
            assert voucher.amount <= self.payee.due, "a settle took what is not due"
            self._pay(voucher)

    def _pay(self, voucher: HeldVoucher) -> None:
        """The contract pays all of it."""
        assert self.claimed < voucher.amount <= self.balance, "it cannot be settled"
        assert voucher.signature == signed(voucher.amount)
        self.tell_payee(VoucherPublished(amount=voucher.amount))
        self.published.add(voucher.amount)
        self.claimed = voucher.amount
        self.see_chain()

    def reorganize(self, lost: int) -> None:
        """The chain takes a settle back; what it closed stays closed, here."""
        if not self.ended:
            self.claimed, self.reorganized = max(0, self.claimed - lost), True
            self.see_chain()

    def request_close(self) -> None:
        """The payer leaves without its payee, which sees that when it looks."""
        if self.ended or self.requested_at is not None:
            return
        self.tell_payer(ExitWanted())
        self.requested_at, self.looked, self.left = self.now, False, True
        self.disturbed = True

    def take_back(self, amount: int) -> None:
        """The payer fills it up itself, and so takes back that it leaves (rule 24)."""
        if self.requested_at is not None:
            self.balance += amount
            self.requested_at, self.withdrawing = None, 0
            self.see_chain()

    def keep(self) -> None:
        """The keeper looks, and takes what a payer that leaves owes (rule 23)."""
        if self.ended or self.requested_at is None:
            return
        self.bury()
        self.withdrawing, self.looked = self.balance, True
        self.see_chain()
        payee, owed = self.payee, self.owed
        held = [v.amount for v in payee.held if self.claimed < v.amount <= self.balance]
        covering = [amount for amount in held if amount >= owed]
        voucher = payee.last_voucher()
        if voucher is None:
            assert owed <= self.claimed or not held, "what is owed was not taken"
            return
        assert owed > self.claimed, "of a payer that owes nothing more was taken"
        most = min(covering) if covering else max(held)
        assert voucher.amount == most, "not the smallest voucher that covers was taken"
        self._pay(voucher)

    @property
    def owed(self) -> int:
        """What was served and will not be given back."""
        served = {
            c: h.sliced
            for c, h in self.handlers.items()
            if not h.answered and not h.reservation.prepaid
        }
        running = {r.cumulative: r for r in self.payee.running}
        told = sum(r.charged for r in running.values() if r.answered)
        return (
            self.payee.due
            + told
            + sum(amount for c, amount in served.items() if not running[c].answered)
        )

    def withdraw(self) -> None:
        """The grace is over; the payee's keeper looked in time."""
        if self.requested_at is None or self.now < self.requested_at + GRACE_SECONDS:
            return
        if not self.looked:
            self.keep()
        self._finalize()

    def refund(self) -> None:
        """The payee closes with the voucher that its payer signed for that."""
        if self.payee.status is not Status.CLOSING or self.ended:
            return
        self.bury()
        if self.payee.running:
            return
        due = self.payee.due
        assert due == self.payee.closing_voucher, "a close takes what is not due"
        if due > self.claimed:
            voucher = self.payee.claim_voucher()
            assert voucher is not None
            assert voucher.amount == due, "it is not the one that was signed to close"
            self._pay(voucher)
        self._finalize()

    def _finalize(self) -> None:
        returned = max(0, self.payer.balance - self.claimed)
        self.balance, self.withdrawing = self.claimed, 0
        self.ended, self.requested_at = True, None
        self.see_chain()
        self.tell_payer(ChannelEmptied(returned=returned))
