"""
Follows the chain for a payee and claims in time: by value, by age, and at once when a
payer starts to withdraw.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from agentpay.errors import ChainError, StoreError, TransactionFailed
from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.calls import Log
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.settlement import Settlement
from agentpay.ports import Chain, PayeeStore
from agentpay.types import Hash32

_log = logging.getLogger(__name__)

_WATCHED = (
    channels.WITHDRAW_INITIATED,
    channels.WITHDRAW_FINALIZED,
    channels.DEPOSITED,
    channels.REFUNDED,
)
_BLOCKS_AT_ONCE = 2000
_BLOCKS_AGAIN = 64


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
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._chain = chain
        self._store = store
        self._settlement = settlement
        self._clock = clock
        # What becomes due while a payer withdraws is claimed before its delay is over.
        self._claim_every = min(policy.claim_every_seconds, settings.withdraw_delay / 3)
        self._claimed_at = clock()
        self._owing = False  # what was claimed by age, and not sent on yet
        self._followed: dict[tuple[Hash32, int], int] = {}
        self._syncing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.synced_at = 0.0

    def fresh(self) -> bool:
        """Whether a withdrawal we have not seen could still be answered (rule 9)."""
        age = self._clock() - self.synced_at
        return 0 <= age < self._settings.withdraw_delay / 3

    async def sync(self) -> None:
        """
        Read what happened to our channels since the last time.

        Raises:
            ChainError: The chain could not be read; what was seen before stands.
        """
        async with self._syncing:
            cursor = f"chain {self._settings.asset.chain}"
            started = self._clock()
            head = await self._chain.head()
            position = await self._store.read_cursor(cursor)
            # Some blocks again: a reorg may have put events where we had passed.
            first = max(0, min(position or head.number, head.number) - _BLOCKS_AGAIN)
            while first <= head.number:
                last = min(head.number, first + _BLOCKS_AT_ONCE - 1)
                for topic in _WATCHED:
                    logs = await self._chain.logs(
                        address=BATCH_SETTLEMENT,
                        topics=[topic],
                        first_block=first,
                        last_block=last,
                    )
                    for log in logs:
                        if (log.transaction, log.index) not in self._followed:
                            await self._follow(log)
                            self._followed[log.transaction, log.index] = log.block
                await self._store.write_cursor(cursor, last)
                first = last + 1
            self._followed = {
                event: block
                for event, block in self._followed.items()
                if block >= head.number - 2 * _BLOCKS_AGAIN
            }
            self.synced_at = started

    async def _follow(self, log: Log) -> None:
        channel = log.topics[1]
        record = await self._settlement.see_chain(channel)
        withdrawing = log.topics[0] == channels.WITHDRAW_INITIATED
        if record is not None and withdrawing:
            _log.info("the payer of channel %s withdraws: claiming", channel)
            await self._settlement.claim_channel(channel)

    async def tick(self) -> None:
        """
        One round: sync, then claim, settle and refund what is due.

        Raises:
            ChainError: Part of it could not be done; the next round tries again.
            StoreError: Likewise.
        """
        await self.sync()
        late = self._clock() - self._claimed_at >= self._claim_every
        await self._settlement.claim(at_least=1 if late else self._policy.claim_at)
        if late:  # whatever comes of the rest: a claim costs gas
            self._claimed_at = self._clock()
        self._owing = self._owing or late
        await self._settle(at_least=1 if self._owing else self._policy.settle_at)
        for record in await self._store.closing(sessions=False, limit=50):
            try:
                await self._settlement.refund(record.channel)
            except TransactionFailed as error:
                _log.warning("channel %s cannot be refunded: %s", record.channel, error)

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

    async def _run(self) -> None:
        while True:
            try:
                await self.tick()
            except (ChainError, StoreError) as error:
                _log.warning("keeper: %s", error)
            except Exception:  # noqa: BLE001
                # Whatever it is, the next withdrawal has to be answered all the same.
                _log.exception("keeper: a round failed")
            await asyncio.sleep(self._policy.poll_seconds)
