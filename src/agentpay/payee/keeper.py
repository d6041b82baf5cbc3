"""
Follows the chain for a payee and claims in time: by value, by age, and at once when a
payer starts to withdraw.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from agentpay.core.payee_events import OwnersDied
from agentpay.errors import (
    ChainError,
    ChainUnreachable,
    InvariantViolated,
    StoreError,
    TransactionFailed,
)
from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.calls import Block, Log
from agentpay.evm.hashing import address_word
from agentpay.payee.endings import Endings
from agentpay.payee.last_time import LastTime
from agentpay.payee.noting import noted
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.served import ServedPayments
from agentpay.payee.session_settlement import SessionSettlement
from agentpay.payee.settlement import Settlement
from agentpay.payee.watched import Watched
from agentpay.ports import Chain, PayeeStore
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.types import Address, Hash32

_log = logging.getLogger(__name__)

_WATCHED = (
    channels.WITHDRAW_INITIATED,
    channels.WITHDRAW_FINALIZED,
    channels.DEPOSITED,
    channels.REFUNDED,
    channels.CLAIMED,
)
_BLOCKS_AT_ONCE = 2000
_BLOCKS_AGAIN = 64
_LEFT_AT_ONCE = 1000
_AT_ONCE = 50
_CLOCKS_DIFFER_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperPolicy:
    """When a payee turns vouchers into money. Amounts are base units."""

    claim_at: int
    """Claim a channel once so much of it is due."""
    claim_every_seconds: float
    """Claim everything that is due this often, and thrice a withdraw delay at least."""
    settle_at: int
    """Send what was claimed once it is so much; with the claims by age, all of it."""
    poll_seconds: float = 2.0
    bury_after_seconds: int = 60
    """How long a request whose process died is kept for its own resend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Followed:
    """An event that was acted upon."""

    channel: Hash32
    block: int


class Keeper:
    """Runs beside a payee; `synced_at` says how fresh our picture of the chain is."""

    def __init__(
        self,
        *,
        settings: PayeeSettings,
        policy: KeeperPolicy,
        chain: Chain,
        store: PayeeStore,
        settlement: Settlement,
        served: ServedPayments,
        sessions: SessionSettlement | None = None,
        watched: Watched | None = None,
        clock: Callable[[], float],
    ) -> None:
        """`sessions` are those of MPP, where they are sold or were."""
        self._settings = settings
        self._policy = policy
        self._chain = chain
        self._store = store
        self._settlement = settlement
        self._served = served
        self._sessions = sessions
        self._watched = watched or Watched()
        self._clock = clock
        # What becomes due while a payer withdraws is claimed before its delay is over.
        self._claim_every = min(policy.claim_every_seconds, settings.withdraw_delay / 3)
        place = settings.asset.chain
        self._claimed = LastTime(f"claimed {place}", store=store, clock=clock)
        self._settled = LastTime(f"settled {place}", store=store, clock=clock)
        self._endings = Endings(
            store=store, settlement=settlement, sessions=sessions, clock=clock
        )
        self._owing = False  # what was claimed by age, and not sent on yet
        self._followed: dict[tuple[Hash32, int], _Followed] = {}
        self._caught_up = False
        self._syncing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.synced_at = 0.0

    def fresh(self) -> bool:
        """Whether a withdrawal we have not seen could still be answered (rule 9)."""
        return self._synced_within(self._delay / 3)

    def _in_time(self) -> bool:
        """Whether a round may begin something more before it looks at the chain."""
        return self._synced_within(self._delay / 10)

    def _synced_within(self, seconds: float) -> bool:
        return 0 <= self._clock() - self.synced_at < seconds

    @property
    def _delay(self) -> float:
        """How long a payer that leaves has to wait, at least."""
        if self._sessions is None:
            return self._settings.withdraw_delay
        return min(self._settings.withdraw_delay, self._sessions.desk.grace_seconds)

    async def sync(self) -> None:
        """
        Read what happened to our channels since the last time.

        Raises:
            ChainError: The chain could not be read, or what is to be claimed at once
                could not be; what was seen before stands.
        """
        async with self._syncing:
            chain = self._settings.asset.chain
            cursor = f"chain {chain}"
            started = self._clock()
            head = await self._chain.head()
            position = await self._store.read_cursor(cursor)
            # Some blocks again: a reorg may have put events where we had passed, and
            # have taken others away.
            again = max(0, min(position or head.number, head.number) - _BLOCKS_AGAIN)
            if not self._caught_up:
                await self._catch_up(await self._chain.block(again), head)
            first, seen = again, set[tuple[Hash32, int]]()
            failed: ChainError | None = None
            while first <= head.number:
                last = min(head.number, first + _BLOCKS_AT_ONCE - 1)
                for address, topics in self._sources():
                    logs = await self._chain.logs(
                        address=address,
                        topics=topics,
                        first_block=first,
                        last_block=last,
                    )
                    seen.update((log.transaction, log.index) for log in logs)
                    try:
                        await self._follow_all(address, logs)
                    except ChainError as error:  # it holds up nothing else
                        failed = failed or error
                if failed is None:
                    await self._store.write_cursor(cursor, last)
                first = last + 1
            await self._take_back(since=again, seen=seen)
            self._followed = {
                event: followed
                for event, followed in self._followed.items()
                if followed.block >= head.number - 2 * _BLOCKS_AGAIN
            }
            if failed is not None:
                raise failed
            await self._store.write_cursor(f"synced {chain}", int(started))
            self.synced_at = self._watched.synced_at = started
            self._caught_up = True

    async def _catch_up(self, again: Block, head: Block) -> None:
        """
        Look again at what others saw in the blocks after `again`, before we followed.

        What a reorg took away since then is in nobody's logs any more.
        """
        chain = self._settings.asset.chain
        synced = await self._store.read_cursor(f"synced {chain}")
        # A test chain's clock may be ahead of ours, and a chain may have stood still.
        since = min(again.timestamp, synced - (head.timestamp - again.timestamp))
        since -= _CLOCKS_DIFFER_SECONDS
        channels = await self._store.seen_since(chain, since)
        for at in range(0, len(channels), _AT_ONCE):
            await _all(*map(self._see, channels[at : at + _AT_ONCE]))

    async def _see(self, channel: Hash32) -> None:
        """Read a channel from the chain, of whichever kind it is."""
        try:
            record = await self._settlement.see_chain(channel)
            if record is None and self._sessions is not None:
                await self._sessions.see_chain(channel)
        except InvariantViolated as bug:  # of which nothing was saved
            self._watched.failed("look", bug)
            _log.exception("keeper: channel %s could not be looked at", channel)

    def _sources(self) -> list[tuple[Address, list[Hash32 | None]]]:
        """Contracts, and which of their events are about us."""
        watched: list[tuple[Address, list[Hash32 | None]]] = [
            (BATCH_SETTLEMENT, [topic]) for topic in _WATCHED
        ]
        if self._sessions is not None:
            # All that is said of a session names its channel, its payer and its payee.
            desk = self._sessions.desk
            ours = Hash32.of(address_word(desk.payee))
            watched.append((desk.escrow.contract, [None, None, None, ours]))
        return watched

    async def _take_back(self, *, since: int, seen: set[tuple[Hash32, int]]) -> None:
        """Read again what rests on events that the chain has no more (a reorg)."""
        for event, followed in list(self._followed.items()):
            if followed.block < since or event in seen:
                continue
            _log.warning("the chain took back an event of %s", followed.channel)
            await self._see(followed.channel)
            del self._followed[event]

    async def _follow_all(self, address: Address, logs: Sequence[Log]) -> None:
        """
        Act on events, once each, and together: of many payers that leave at once, each
        claimed after the one before was mined, the last would be claimed too late.
        """
        fresh = [e for e in logs if (e.transaction, e.index) not in self._followed]
        for at in range(0, len(fresh), _AT_ONCE):
            leaving: list[Log] = []
            some = (self._follow(address, e, leaving) for e in fresh[at:][:_AT_ONCE])
            outcomes = await asyncio.gather(*some, return_exceptions=True)
            if leaving:
                await self._settlement.claim_channels(
                    [log.topics[1] for log in leaving],
                    deadline=min(channels.finalize_after(log) for log in leaving),
                )
            for log in leaving:
                self._note(log)
            for outcome in filter(None, outcomes):
                raise outcome

    async def _follow(self, address: Address, log: Log, leaving: list[Log]) -> None:
        """Act on one event, as long as it is among those read if that fails."""
        if len(log.topics) < 2:
            raise ChainUnreachable(
                "the endpoint answers nonsense: an unasked-for event"
            )
        try:
            await self._act(address, log, leaving)
        except InvariantViolated as bug:  # of which nothing was saved
            self._watched.failed("look", bug)
            _log.exception(
                "keeper: an event of channel %s cannot be followed", log.topics[1]
            )

    async def _act(self, address: Address, log: Log, leaving: list[Log]) -> None:
        """That a channel's payer leaves is put to the others."""
        channel = log.topics[1]
        if address != BATCH_SETTLEMENT and self._sessions is not None:
            await self._follow_session(channel, self._sessions)
        elif log.topics[0] != channels.CLAIMED:  # which we did, and have booked
            record = await self._settlement.see_chain(channel)
            if record is not None and log.topics[0] == channels.WITHDRAW_INITIATED:
                _log.info("the payer of channel %s withdraws: claiming", channel)
                leaving.append(log)
                return
        self._note(log)

    def _note(self, log: Log) -> None:
        event = log.transaction, log.index
        self._followed[event] = _Followed(channel=log.topics[1], block=log.block)

    async def _follow_session(
        self, channel: Hash32, sessions: SessionSettlement
    ) -> None:
        record = await sessions.see_chain(channel)
        if record is not None and record.ledger.is_ending:
            await self._endings.end_session(record)

    async def tick(self) -> None:
        """
        One round: sync, then claim, settle and give back what is due.

        Raises:
            ChainError: Part of it could not be done; the next round tries again.
            StoreError: Likewise.
        """
        await self.sync()
        try:
            await self._bury()
        except InvariantViolated as bug:  # of which nothing was saved
            self._watched.failed("bury", bug)
            _log.exception("keeper: what died at work could not be ended")
        # A facilitator that is down keeps no session from being settled in time.
        await _all(
            self._served.settle(begun_until=int(self._forgotten_at())),
            self._served.sweep(),
            self._tend_channels(),
            self._tend_sessions(),
        )

    async def _bury(self) -> None:
        """What died at work had charged something: that is due, and is claimed."""
        event = OwnersDied(owner=self._store.owner)
        latest = self._forgotten_at()

        def decide(record: PayeeRecord | None) -> PayeeStep[None]:
            if record is None or record.last_voucher_at > latest:
                return PayeeStep(record=record, answer=None)
            return noted(record, event, answer=None)

        left = await self._store.left_behind(limit=_LEFT_AT_ONCE)
        await _all(*(self._store.update(record.channel, decide) for record in left))

    def _forgotten_at(self) -> float:
        """What began by then, and whose process died, waits for no resend any more."""
        return self._clock() - self._policy.bury_after_seconds

    async def _tend_channels(self) -> None:
        late = await self._claimed.is_long_ago(self._claim_every)
        least = 1 if late else self._policy.claim_at
        claimed = await self._settlement.claim(at_least=least)
        # Whatever comes of the rest: a claim costs gas, and to wait for all costs none.
        if late and (claimed or not self._settlement.waits):
            await self._claimed.done()
        self._owing = self._owing or late
        await self._settle(at_least=1 if self._owing else self._policy.settle_at)
        await self._endings.refund(in_time=self._in_time)

    async def _tend_sessions(self) -> None:
        if self._sessions is None:
            return
        due = await self._endings.due_sessions()
        await _all(*map(self._endings.end_session, due))
        late = await self._settled.is_long_ago(self._policy.claim_every_seconds)
        await self._sessions.settle(at_least=1 if late else self._policy.claim_at)
        if late:
            await self._settled.done()

    async def _settle(self, *, at_least: int) -> None:
        """A paused token, or a payee that it froze, keeps no payer's money here."""
        try:
            await self._settlement.settle(at_least=at_least)
        except TransactionFailed as error:
            _log.warning("what was claimed cannot be sent on yet: %s", error)
        else:
            self._owing = False

    def start(self) -> None:
        """Run rounds in the background until `stop`."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="agentpay keeper")

    async def stop(self) -> None:
        """Stop the rounds; one that is under way is cut short and is safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _round(self) -> None:
        """One round by whoever leads; the others hear how far it has come."""
        chain = self._settings.asset.chain
        if await self._store.lead(f"keeper {chain}"):
            await self.tick()
            return
        self._caught_up = False  # whoever leads follows, and may die of it
        synced_at = await self._store.read_cursor(f"synced {chain}")
        self.synced_at = self._watched.synced_at = max(self.synced_at, synced_at)

    async def _run(self) -> None:
        while True:
            try:
                with self._watched.counting("round"):
                    await self._round()
            except (ChainError, StoreError) as error:
                _log.warning("keeper: %s", error)
            except Exception:  # noqa: BLE001
                # Whatever it is, the next withdrawal has to be answered all the same.
                _log.exception("keeper: a round failed")
            await asyncio.sleep(self._policy.poll_seconds)


async def _all(*steps: Coroutine[Any, Any, None]) -> None:
    """Each to its end, whatever comes of the others; then the first that failed."""
    for outcome in await asyncio.gather(*steps, return_exceptions=True):
        if outcome is not None:
            raise outcome
