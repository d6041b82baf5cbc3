"""
A payer's books: budget and channels, moved together in one durable step.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar
from weakref import WeakValueDictionary

from agentpay.core import budget as budgets
from agentpay.core.budget import Budget, BudgetEvent, Limits
from agentpay.core.payer_channel import (
    CloseWanted,
    DepositLapsed,
    ExitWanted,
    Issued,
    Misbehaved,
    PayerAnswer,
    PendingDeposit,
    TicketVoid,
    TicketWanted,
)
from agentpay.core.payer_session_rules import (
    CloseCorrected,
    PayerSessionEvent,
    RaiseWanted,
    TicketDelivered,
)
from agentpay.errors import (
    ChannelUnusable,
    HostQuarantined,
    PayeeMisbehaved,
    StoreError,
)
from agentpay.payer.changes import Change
from agentpay.payer.ledger_steps import DepositWish, Place, apply_to, may_carry, take
from agentpay.payer.money_log import log_money
from agentpay.payer.policy import Policy, scale
from agentpay.ports import PayerStore
from agentpay.records import PayerRecord, PayerStep
from agentpay.types import MONEY_DECIMALS, Address, Hash32
from agentpay.whole_steps import take_whole

_log = logging.getLogger(__name__)

T = TypeVar("T")

_ACTED_ON = (CloseWanted, CloseCorrected, ExitWanted)
"""What is signed or sent next: it would be signed anew for something else if lost."""


class PayerLedger:
    """The books of one account. Waiters are told of every change to a channel."""

    def __init__(
        self,
        *,
        account: Address,
        store: PayerStore,
        limits: Callable[[int], Limits],
        policy: Policy,
        clock: Callable[[], float],
        cheated: Callable[[Hash32], None],
    ) -> None:
        """
        `limits` gives the budget's limits for a token with so many decimals; `cheated`
        is told of channels whose payee contradicted our signatures.
        """
        self.account = account
        self.store = store
        self.limits = lru_cache(maxsize=32)(limits)
        self._policy = policy
        self._clock = clock
        self._cheated = cheated
        self._lapsed: frozenset[str] = frozenset()
        self._refused: set[str] = set()
        """Holds of transfers that their payee refused."""
        self.distrusted: set[str] = set()
        """Origins whose payee contradicted our signatures: paid no more."""
        self._changes: WeakValueDictionary[str, Change] = WeakValueDictionary()

    def change(self, origin: str) -> Change:
        """Something to wait on for the next change to a channel with an origin."""
        return self._changes.setdefault(origin, Change())

    def now(self) -> float:
        """The time by our clock."""
        return self._clock()

    def check_honest(self, record: PayerRecord, *answers: PayerAnswer) -> None:
        """
        Raises:
            PayeeMisbehaved: A payee contradicted our signatures: it is paid no more.
        """
        for said in answers:
            if isinstance(said, Misbehaved):
                self.distrusted.add(record.origin)
                self._cheated(record.channel)
                raise PayeeMisbehaved(
                    f"{record.origin}, channel {record.channel}: {said.reason};"
                    " the channel is stopped: withdraw from it"
                )

    async def undelivered(self, host: str, *, sent_at: float) -> None:
        """A host had a payment, sent then, and gave nothing for it."""
        lapse = budgets.Undelivered(
            host=host,
            sent_at=int(sent_at * 1000),
            noticed_at=int(self._clock() * 1000),
            within=self._policy.quarantine_seconds * 1000,
        )
        await self._note(lapse)

    def refused(self, payment: str) -> None:
        """A payee says that it will not have this one, and could still take it."""
        self._refused.add(payment)

    async def resolved(self, payment: str, host: str, *, moved: bool) -> None:
        """What became of a payment is known: one that was refused is not to move."""
        refused = payment in self._refused
        self._refused.discard(payment)
        if refused and moved:
            _log.warning("%s took a payment that it had refused", host)
            await self.undelivered(host, sent_at=self._clock())

    async def delivered(self, host: str) -> None:
        """A host gave an answer for a payment."""
        if host in self._lapsed:
            await self._note(budgets.Delivered(host=host))

    async def _note(self, event: BudgetEvent) -> None:
        """Never in the way of an answer: what cannot be noted is logged."""
        try:
            await self.move(MONEY_DECIMALS, event)
        except StoreError as error:
            _log.warning("a lapse could not be recorded: %s", error)

    async def check_host(self, host: str) -> None:
        """
        Raises:
            HostQuarantined: It took several payments in a row and delivered nothing.
        """
        self._check_host(await self.store.budget(self.account), host)

    def _check_host(self, budget: Budget, host: str) -> None:
        """
        Raises:
            HostQuarantined: It took several payments in a row and delivered nothing.
        """
        self._lapsed = frozenset(lapse.host for lapse in budget.lapses)
        lapse, most = budget.lapse(host), self._policy.quarantine_after
        if lapse is None or most is None or lapse.count < most:
            return
        until = lapse.last // 1000 + self._policy.quarantine_seconds
        left = until - int(self._clock())
        if left > 0:
            raise HostQuarantined(
                host=host, lapses=lapse.count, until=until, seconds=left
            )

    async def read(self, channel: Hash32) -> PayerRecord | None:
        """A channel as it is now."""

        def decide(
            budget: Budget, record: PayerRecord | None
        ) -> PayerStep[PayerRecord | None]:
            return PayerStep(budget=budget, record=record, answer=record)

        return await self.store.update(self.account, channel, decide, durable=False)

    async def spent(self, channel: Hash32) -> int:
        """What was spent on a channel: answers that name no voucher are read by it."""
        record = await self.read(channel)
        return record.ledger.spent if record is not None else 0

    async def add(self, fresh: PayerRecord, *, found: int = 0) -> None:
        """Begin a channel, or take back one that was lost with `found` in it."""

        def decide(budget: Budget, record: PayerRecord | None) -> PayerStep[None]:
            if record is None and found:
                event = budgets.Found(
                    host=fresh.host, amount=scale(found, fresh.decimals)
                )
                budget = budgets.apply(budget, event, self.limits(fresh.decimals))
            return PayerStep(budget=budget, record=record or fresh, answer=None)

        await self.store.update(self.account, fresh.channel, decide)

    async def take_ticket(
        self,
        channel: Hash32,
        *,
        maximum: int,
        host: str,
        place: Place,
        wish: DepositWish,
    ) -> tuple[PayerAnswer, PayerRecord]:
        """
        Set money aside for one request on a channel, durably; and the channel with it.

        Raises:
            BudgetExceeded: The request, or the deposit it needs, is above the budget.
            HostQuarantined: The host took several payments and delivered nothing.
        """

        def decide(budget: Budget, record: PayerRecord) -> PayerStep[PayerAnswer]:
            limits = self.limits(record.decimals)
            self._check_host(budget, host)
            budgets.check_request(limits, scale(maximum, record.decimals))
            per_request = limits.per_request // scale(1, record.decimals)
            carries = may_carry(record, place.offer, wish)

            def want(deposit: PendingDeposit | None, low_water: int) -> TicketWanted:
                return TicketWanted(
                    maximum=maximum,
                    deposit=deposit,
                    low_water=low_water,
                    rise=wish.rise,
                    whole=wish.whole,
                    most=per_request,
                    carries=carries,
                )

            step = take(budget, record, want, host=host, wish=wish, limits=limits)
            after = step.record
            if not isinstance(step.answer, Issued) or after is None:
                return step
            ticket = after.ledger.ticket(step.answer.cumulative)
            if ticket is not None and wish.whole:  # it may cost more than its price
                most = scale(ticket.maximum, record.decimals)
                budgets.check_request(limits, most)
            # A deposit on its way was signed under the offer that is kept with it.
            waits = record.ledger.deposit is not None
            if waits or (after.url, after.offer) == (place.url, place.offer):
                return step
            here = replace(after, url=place.url, offer=place.offer)
            return replace(step, record=here)

        return await self._take(channel, decide)

    async def take_raise(
        self,
        channel: Hash32,
        *,
        cumulative: int,
        more: int,
        delivered: int,
        host: str,
        wish: DepositWish,
    ) -> tuple[PayerAnswer, PayerRecord]:
        """
        Set more money aside for a request that runs, and has `delivered` so much.

        Raises:
            BudgetExceeded: What it may then cost, or a deposit, is above the budget.
            HostQuarantined: The host took several payments and delivered nothing.
        """

        def want(deposit: PendingDeposit | None, low_water: int) -> RaiseWanted:
            return RaiseWanted(
                cumulative=cumulative,
                more=more,
                deposit=deposit,
                low_water=low_water,
                rise=wish.rise,
            )

        def decide(budget: Budget, record: PayerRecord) -> PayerStep[PayerAnswer]:
            limits = self.limits(record.decimals)
            self._check_host(budget, host)
            came = TicketDelivered(cumulative=cumulative, delivered=delivered)
            record, _ = apply_to(record, came)
            ticket = record.ledger.ticket(cumulative)
            maximum = ticket.maximum if ticket is not None else 0
            budgets.check_request(limits, scale(maximum + more, record.decimals))
            return take(budget, record, want, host=host, wish=wish, limits=limits)

        return await self._take(channel, decide)

    async def _take(
        self,
        channel: Hash32,
        decide: Callable[[Budget, PayerRecord], PayerStep[PayerAnswer]],
    ) -> tuple[PayerAnswer, PayerRecord]:
        """Durably; a caller that is cancelled takes nothing."""

        def decide_both(
            budget: Budget, record: PayerRecord | None
        ) -> PayerStep[tuple[PayerAnswer, PayerRecord]]:
            if record is None:
                raise ChannelUnusable(f"channel {channel} is not in the store")
            step = decide(budget, record)
            after = step.record or record
            both = (step.answer, after)
            return PayerStep(budget=step.budget, record=after, answer=both)

        async def undo(taken: tuple[PayerAnswer, PayerRecord]) -> None:
            answer, _ = taken
            if isinstance(answer, Issued):
                await self.take_back(channel, answer)

        step = self.store.update(self.account, channel, decide_both)
        return await take_whole(step, undo)

    async def take_back(self, channel: Hash32, issued: Issued) -> None:
        """Free a ticket, and its deposit, whose signatures have not left us."""
        events: list[PayerSessionEvent] = [TicketVoid(cumulative=issued.cumulative)]
        money: tuple[BudgetEvent, ...] = ()
        if issued.deposit is not None and not issued.again:
            events.append(DepositLapsed(salt=issued.deposit.salt))
            money = (budgets.Released(id=f"deposit {issued.deposit.salt}"),)
        await self.book(channel, *events, money=money)

    async def book(
        self,
        channel: Hash32,
        *events: PayerSessionEvent,
        money: tuple[BudgetEvent, ...] = (),
    ) -> list[PayerAnswer]:
        """
        Write what an answer or the chain said; durable soon, and at once where money
        moves or where something is signed or sent because of it.
        """
        before: Budget | None = None

        def decide(
            budget: Budget, record: PayerRecord | None
        ) -> PayerStep[list[PayerAnswer]]:
            nonlocal before
            if record is None:
                return PayerStep(budget=budget, record=None, answer=[])
            limits, before = self.limits(record.decimals), budget
            after = record
            answers: list[PayerAnswer] = []
            for event in events:
                after, answer = apply_to(after, event)
                answers.append(answer)
            for movement in money:
                budget = budgets.apply(budget, movement, limits)
            if after is not record:
                self._tell(record.origin)
            return PayerStep(budget=budget, record=after, answer=answers)

        durable = bool(money) or any(isinstance(e, _ACTED_ON) for e in events)
        answers = await self.store.update(
            self.account, channel, decide, durable=durable
        )
        log_money(before, money)
        return answers

    async def move(self, decimals: int, *events: BudgetEvent) -> None:
        """
        Move the budget alone, durably.

        Raises:
            BudgetExceeded: A reservation is above it.
        """
        await self.choose(lambda _: (events, None), decimals=decimals)

    async def choose(
        self,
        choice: Callable[[Budget], tuple[tuple[BudgetEvent, ...], T]],
        *,
        decimals: int = MONEY_DECIMALS,
        durable: bool = True,
    ) -> T:
        """The same by what that step chooses, perhaps more than once; see `move`."""
        limits = self.limits(decimals)

        def decide(
            budget: Budget, record: PayerRecord | None
        ) -> PayerStep[tuple[Budget, tuple[BudgetEvent, ...], T]]:
            before = budget
            events, chosen = choice(budget)
            for event in events:
                if isinstance(event, budgets.Reserved):
                    self._check_host(budget, event.hold.host)
                budget = budgets.apply(budget, event, limits)
            self._lapsed = frozenset(lapse.host for lapse in budget.lapses)
            answer = before, events, chosen
            return PayerStep(budget=budget, record=record, answer=answer)

        step = await self.store.update(self.account, None, decide, durable=durable)
        before, events, chosen = step
        log_money(before, events)
        return chosen

    async def affords(self, amount: int, *, host: str, decimals: int) -> bool:
        """Whether the budget has so much left now; another may take it next."""
        budget = await self.store.budget(self.account)
        left = budgets.left_for(budget, host, self.limits(decimals))
        return scale(amount, decimals) <= left

    def _tell(self, origin: str) -> None:
        """Wake whoever waits; harmless if the step is decided twice."""
        change = self._changes.pop(origin, None)
        if change is not None:
            change.event.set()
