"""
Payees that do not answer any more, with money of ours in their channels: leave them.
So those that contradicted our signatures, where leaving them at once failed.

How long one has been silent is counted while the agent runs, by questions that buy
nothing. That is kept in memory: after a restart it counts anew, and leaves later.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentpay.core.payer_channel import PayerStatus
from agentpay.errors import AgentPayError, ChannelUnusable
from agentpay.payer.exit import Exit, Stage, Withdrawal
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.payment import Asker
from agentpay.records import PayerRecord
from agentpay.types import ChainId

_log = logging.getLogger(__name__)

ASKED_MIN: Final = 3
"""One lost answer, or a machine that slept for a day, is no silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Silent:
    """Since when an origin has not answered, and how often it was asked."""

    since: float
    asked: int


class Sweeper:
    """Gets money out of the channels of payees that are gone. Belongs to one loop."""

    def __init__(
        self,
        *,
        exit: Exit,  # noqa: A002
        ledger: PayerLedger,
        ask: Asker,
        chain: ChainId,
        after_seconds: float | None,
        leaves_stopped: bool,
        clock: Callable[[], float],
    ) -> None:
        """
        With `after_seconds` None, nobody is asked, and nobody left for being silent.
        With `leaves_stopped`, channels on which we sign nothing more are left at once.
        """
        self._exit = exit
        self._ledger = ledger
        self._ask = ask
        self._chain = chain
        self._after = after_seconds
        self._leaves_stopped = leaves_stopped
        self._clock = clock
        self._silent: dict[str, _Silent] = {}

    async def sweep(self) -> list[Withdrawal]:
        """
        Finish the withdrawals whose delay is over, and start those of silent payees and
        of stopped channels.

        What fails is logged and tried again by the next sweep; it stops no other.
        """
        done: list[Withdrawal] = []
        heard: dict[str, bool] = {}
        for record in await self._ledger.store.channels(self._ledger.account):
            if record.chain != self._chain or not _holds_money(record):
                continue
            try:
                withdrawal = await self._tend(record, heard)
            except ChannelUnusable as error:
                _log.debug("channel %s: %s", record.channel, error)
            except AgentPayError as error:
                _log.warning("channel %s cannot be left yet: %s", record.channel, error)
            else:
                done += [withdrawal] if withdrawal is not None else []
        return done

    async def _tend(
        self, record: PayerRecord, heard: dict[str, bool]
    ) -> Withdrawal | None:
        if record.ledger.status is PayerStatus.STOPPED:
            stage = await self._exit.stage(record.channel)
            if stage is Stage.DUE:
                return await self._exit.finish(record.channel)
            if stage is Stage.WAITING:
                return None
            # One that was found on the chain may be in use elsewhere: ours has signed.
            if self._leaves_stopped and record.ledger.signed:
                return await self._start(record, "nothing more is signed for it")
        if self._after is None:
            return None
        if record.origin not in heard:
            heard[record.origin] = await self._answers(record)
            self._count(record.origin, heard[record.origin])
        if not self._is_gone(record.origin, self._after):
            return None
        return await self._start(record, f"it has not answered for {self._after:.0f} s")

    async def _start(self, record: PayerRecord, why: str) -> Withdrawal:
        _log.warning(
            "leaving channel %s with %s: %s", record.channel, record.origin, why
        )
        return await self._exit.start(record.channel)

    async def _answers(self, record: PayerRecord) -> bool:
        """Whether anything comes back that a server which is well would say."""
        _, _, url = record.url.partition(" ")
        answer = await self._ask("HEAD", url or record.origin, "*/*", field="accept")
        return answer is not None and answer.status < 500

    def _count(self, origin: str, answers: bool) -> None:
        now = self._clock()
        before = self._silent.get(origin)
        if answers:
            self._silent.pop(origin, None)
        elif before is None or before.since > now:  # a clock that was set back
            self._silent[origin] = _Silent(since=now, asked=1)
        else:
            self._silent[origin] = _Silent(since=before.since, asked=before.asked + 1)

    def _is_gone(self, origin: str, after: float) -> bool:
        silent = self._silent.get(origin)
        if silent is None or silent.asked < ASKED_MIN:
            return False
        return self._clock() - silent.since >= after


def _holds_money(record: PayerRecord) -> bool:
    ledger = record.ledger
    if ledger.status is PayerStatus.CLOSED:
        return False
    return ledger.balance > ledger.spent or ledger.deposit is not None
