"""
Payments that brought no answer, and the later requests that carry them on.

Whoever asks for the same again presents what was signed the first time, and nothing is
signed in its place (C8): its payee tells the answer that it kept, or sells now what it
has not sold. One request at a time is at a payment, so that two which run at once are
two purchases. What is known of it is in the hold of its budget, and outlives us.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Generic, TypeVar

from agentpay.core.budget import (
    Answered,
    Budget,
    BudgetEvent,
    Due,
    Hold,
    Presented,
    Released,
    carried_on,
)
from agentpay.errors import StoreError
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.policy import Policy
from agentpay.payer.transfer_holds import ANSWER_KEPT_SECONDS
from agentpay.types import MONEY_DECIMALS
from agentpay.whole_steps import take_whole

_log = logging.getLogger(__name__)

T = TypeVar("T")

_LAST_ANSWER_SECONDS = 60
"""What was sent before its payer gave up is answered by then, or never."""
_CALM_SECONDS = 5.0
"""Other processes that live have ended by then what was under way as we began."""
_LOOK_AGAIN_SECONDS = 0.1
_LEFT_MAX = 4096


class Unanswered(Generic[T]):
    """Which payments of one payer are under way, and which nobody is at any more."""

    def __init__(
        self, ledger: PayerLedger, policy: Policy, *, is_ours: Callable[[Hold], bool]
    ) -> None:
        """`is_ours` says of a hold whether we can present it."""
        self._ledger = ledger
        self._is_ours = is_ours
        self._give_up_seconds = policy.give_up_seconds
        self._running: set[str] = set()
        """Holds that requests of this process are at."""
        self._left: OrderedDict[str, tuple[int, T | None]] = OrderedDict()
        """Holds that one of ours was at last, as its books say, and its payment."""
        self._unsure: dict[str, int] = {}
        """Until when we took them up, if that was saved: nobody says."""
        self._earlier: dict[str, int] | None = None
        """Holds of processes that ended before we began, or live beside us."""
        self._calm_at = 0.0
        self._looking = asyncio.Lock()

    def until(self) -> int:
        """How long a request that begins now may be at its payment."""
        return int(self._ledger.now() + self._give_up_seconds) + _LAST_ANSWER_SECONDS

    def begin(self, hold: Hold) -> None:
        """A request of ours is at it."""
        self._running.add(hold.id)

    async def take(self, request: str) -> tuple[Hold, T | None] | None:
        """
        The oldest payment for a request that nobody is at, and that is nobody else's
        from now on, durably; None if there is none.
        """
        await self._look()
        while await self._is_known(request):
            hold, wait = await take_whole(self._take_up(request), self._give_back)
            if hold is not None:
                self._running.add(hold.id)
                self._unsure.pop(hold.id, None)
                _, payment = self._left.pop(hold.id, (0, None))
                return hold, payment
            if not wait:
                return None
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        return None

    async def any_left(self) -> bool:
        """Whether there may be any of ours to take: seen without a step of a store."""
        await self._look()
        return bool(self._left or self._earlier)

    async def _take_up(self, request: str) -> tuple[Hold | None, bool]:
        chosen: list[Hold] = []

        def choose(
            budget: Budget,
        ) -> tuple[tuple[BudgetEvent, ...], tuple[Hold | None, bool]]:
            events, (hold, wait) = self._choose(budget, request)
            chosen[:] = [] if hold is None else [hold]
            return events, (hold, wait)

        try:
            return await self._ledger.choose(choose)
        except StoreError:
            for hold in chosen:  # nobody is at it, whether that was saved or not
                self._unsure[hold.id] = hold.presented_until
            raise

    async def _is_known(self, request: str) -> bool:
        """Nearly always not, which takes no durable step to see."""
        return await self._ledger.choose(
            lambda budget: ((), any(h.request == request for h in budget.holds)),
            durable=False,
        )

    def _choose(
        self, budget: Budget, request: str
    ) -> tuple[tuple[BudgetEvent, ...], tuple[Hold | None, bool]]:
        found = carried_on(budget, request, self._is_free)
        if found is None:
            doubtful = carried_on(budget, request, self._is_doubtful)
            return (), (None, doubtful is not None)
        # Later than ever: then nobody takes it up who knows it as it was left.
        until = max(self.until(), abs(found.presented_until) + 1)
        ours = replace(found, presented_until=until)
        return (Presented(id=found.id, until=until),), (ours, False)

    def _is_free(self, hold: Hold) -> bool:
        if hold.id in self._running or not self._is_ours(hold):
            return False
        if hold.presented_until <= self._ledger.now():
            return True
        left, _ = self._left.get(hold.id, (0, None))
        return hold.presented_until in (left, self._unsure.get(hold.id)) or (
            self._is_earlier(hold) and not self._is_doubtful(hold)
        )

    def _is_doubtful(self, hold: Hold) -> bool:
        """Whether who was at it as we began may be at it still."""
        calm = asyncio.get_running_loop().time() >= self._calm_at
        running = hold.id in self._running or not self._is_ours(hold)
        return self._is_earlier(hold) and not running and not calm

    def _is_earlier(self, hold: Hold) -> bool:
        return (self._earlier or {}).get(hold.id) == hold.presented_until

    async def _look(self) -> None:
        """Once, before anything is reserved: what is there has been left, or nearly."""
        async with self._looking:
            if self._earlier is not None:
                return
            budget = await self._ledger.store.budget(self._ledger.account)
            self._earlier = {
                hold.id: hold.presented_until for hold in budget.holds if hold.request
            }
            if self._ledger.store.shared:
                seconds = min(_CALM_SECONDS, self._give_up_seconds / 2)
                self._calm_at = asyncio.get_running_loop().time() + seconds

    async def _give_back(self, taken: tuple[Hold | None, bool]) -> None:
        hold, _ = taken
        if hold is not None:
            _, payment = self._left.get(hold.id, (0, None))
            await self.leave(hold, payment)

    async def leave(self, hold: Hold, payment: T | None) -> None:
        """Nobody is at it any more, and nobody knows what became of it."""
        self._running.discard(hold.id)
        self._remember(hold, payment)
        await self._note(Presented(id=hold.id, until=-hold.presented_until))

    async def answered(self, hold: Hold) -> None:
        """Its request had an answer or a refusal, and its money is held."""
        self.end(hold)
        await self._note(Answered(id=hold.id))

    async def owed(self, hold: Hold, payment: T) -> None:
        """
        Its answer broke off while it was read: the same request is to have it. What
        nobody asked for while it was kept, and holds no money, is no more.
        """
        self._remember(hold, payment)
        until = self._ledger.now() - ANSWER_KEPT_SECONDS

        def owe(budget: Budget) -> tuple[tuple[BudgetEvent, ...], None]:
            due = (h for h in budget.holds if h.request and not h.amount)
            over = [Released(id=h.id) for h in due if h.valid_before < until]
            return (*over, Due(hold=hold)), None

        await self._say(self._ledger.choose(owe))

    def _remember(self, hold: Hold, payment: T | None) -> None:
        self._left[hold.id] = (hold.presented_until, payment)
        if len(self._left) > _LEFT_MAX:
            self._left.popitem(last=False)

    def end(self, hold: Hold) -> None:
        """The hold is no more, or is nothing that a request could carry on."""
        self._running.discard(hold.id)

    async def _note(self, event: BudgetEvent) -> None:
        await self._say(self._ledger.move(MONEY_DECIMALS, event))

    async def _say(self, step: Awaitable[None]) -> None:
        """Never in the way of an answer: here it is known, whatever the store says."""
        try:
            await step
        except StoreError as error:
            _log.warning("how a payment ended could not be recorded: %s", error)
