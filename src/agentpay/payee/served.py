"""
Transfers whose answer left before they were settled: settled again until it is known.

So are those that a process was answering when it died.

Also forgets payments that are over, once what was signed for them has expired.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from agentpay.errors import ChainError, TransactionFailed
from agentpay.evm.transfer import Transfer
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.watched import Watched
from agentpay.ports import Chain, PayeeStore, Settler
from agentpay.records import PaymentRecord, PaymentStatus, Settled
from agentpay.wire.x402_transfers import read_kept

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 50
_NOTHING: Final = Settled(transaction="", amount=0)
_SWEEP_SECONDS: Final = 600


class ServedPayments:
    """What was served and is not known to be paid, of one payee."""

    def __init__(
        self,
        settings: PayeeSettings,
        chain: Chain,
        facilitator: Settler,
        store: PayeeStore,
        *,
        watched: Watched | None = None,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._facilitator = facilitator
        self._store = store
        self._watched = watched or Watched()
        self._clock = clock
        self._swept_at = 0.0

    async def settle(self, *, begun_until: int) -> None:
        """
        Settle each once more; what was settled before is found to be.

        What the dead were answering is left to its own resend, if it began later.

        Raises:
            StoreError: It could not be read or kept; the next round tries again.
        """
        await self._store.bury_payments(begun_until=begun_until)
        served = await self._store.served_payments(limit=_AT_ONCE)
        # Together: nobody looks at the chain meanwhile, and each may take its time.
        steps = (self._settle(record) for record in served if record.request)
        outcomes = await asyncio.gather(*steps, return_exceptions=True)
        for failed in filter(None, outcomes):
            raise failed

    async def sweep(self) -> None:
        """Forget what is over, now and then."""
        now = self._clock()
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            await self._store.sweep_payments(now=int(now))

    async def _settle(self, record: PaymentRecord) -> None:
        if record.charged == 0:
            await self._finish(record, PaymentStatus.DELIVERED, _NOTHING)
            return
        transfer = read_kept(record.request, self._settings.asset)
        try:
            with self._watched.step("settle_transfer", 1):
                settled = await self._facilitator.settle_transfer(
                    transfer, record.charged
                )
        except TransactionFailed as error:
            if await self._may_be_mined(transfer):
                return
            _log.warning("served and never paid: %s (%s)", record.id, error.reason)
            await self._finish(record, PaymentStatus.FAILED, _NOTHING)
        except ChainError as error:
            _log.debug("%s is not settled yet: %s", record.id, error)
        else:
            await self._finish(record, PaymentStatus.DELIVERED, settled)

    async def _may_be_mined(self, transfer: Transfer) -> bool:
        """Whether a transaction that was sent before can still use it."""
        try:
            head = await self._chain.head()
        except ChainError:
            return True
        return head.timestamp <= transfer.valid_before

    async def _finish(
        self, record: PaymentRecord, status: PaymentStatus, settled: Settled
    ) -> None:
        await self._store.finish_payment(
            record.id,
            owner=record.owner,
            status=status,
            transaction=settled.transaction,
            charged=settled.amount,
        )
