"""
Many `exact` transfers in one transaction, by Multicall3, each for itself.

Those that would fail are left out before it is sent, those that fail all the same do
not stop the rest, and what each did is read from its own events. Each has its share of
the gas, also one that failed. Only transfers by EIP-3009 of plain keys: they leave an
event that names their nonce, their signature costs the same gas always, and anybody may
send them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agentpay.errors import (
    ChainError,
    ChainUnreachable,
    GasMissing,
    GasTooExpensive,
    StoreError,
    TransactionFailed,
)
from agentpay.evm.calls import Call, Receipt
from agentpay.evm.erc6492 import is_wrapped
from agentpay.evm.multicall3_abi import aggregate_call, decode_results
from agentpay.evm.transfer import Transfer
from agentpay.facilitator.deposit_gas import DepositGas
from agentpay.facilitator.embedded import Facilitator
from agentpay.facilitator.gas import Spent
from agentpay.facilitator.outcomes import transfer_result
from agentpay.facilitator.sponsor import Sponsor
from agentpay.ports import Chain
from agentpay.records import Settled
from agentpay.sending_ports import Sender
from agentpay.types import Address
from agentpay.wire.bazaar import Listing

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """How long payments wait for others, and how many share a transaction."""

    seconds: float = 1.0
    gas_each: int = 75_000
    """What one may use; a batch has as many as fit `GasLimits.batch`."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    """One payment in the queue, and whoever waits for it."""

    transfer: Transfer
    call: Call
    spent: Spent | None
    done: asyncio.Future[Settled]


class BatchingFacilitator(Facilitator):
    """Settles transfers many at a time, and does all else as any other."""

    def __init__(
        self,
        *,
        chain: Chain,
        senders: Sequence[Sender],
        policy: BatchPolicy,
        wallet_factories: Collection[Address] = (),
        sponsor: Sponsor | None = None,
        deposits: DepositGas | None = None,
    ) -> None:
        """See `Facilitator`."""
        super().__init__(
            chain=chain,
            senders=senders,
            wallet_factories=wallet_factories,
            sponsor=sponsor,
            deposits=deposits,
        )
        self._batches = TransferBatches(chain=chain, facilitator=self, policy=policy)

    async def settle_transfer(
        self, transfer: Transfer, amount: int, *, listing: Listing | None = None
    ) -> Settled:
        """See `Settler.settle_transfer`."""
        del listing
        return await self._batches.settle_transfer(transfer, amount)


class TransferBatches:
    """Gathers transfers and sends them together. Belongs to one event loop."""

    def __init__(
        self, *, chain: Chain, facilitator: Facilitator, policy: BatchPolicy
    ) -> None:
        self._chain = chain
        self._facilitator = facilitator
        self._policy = policy
        self._most = max(1, facilitator.gas.batch // policy.gas_each)
        self._queue: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    async def settle_transfer(self, transfer: Transfer, amount: int) -> Settled:
        """See `Settler.settle_transfer`; waits for others up to the policy's time."""
        if not await self._fits(transfer):
            return await self._by_itself(transfer, amount)
        waiting = _Waiting(
            transfer=transfer,
            call=transfer.call(amount),
            spent=self._facilitator.reserve(transfer.to, self._policy.gas_each),
            done=asyncio.get_running_loop().create_future(),
        )
        self._queue.append(waiting)
        if len(self._queue) >= self._most:
            self._flush()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._policy.seconds, self._flush)
        return await waiting.done

    async def _fits(self, transfer: Transfer) -> bool:
        """Whether anybody may send it, and it cannot use up the gas of the others."""
        if transfer.facilitator is not None or transfer.trace().mark:
            return False
        if is_wrapped(transfer.signature):
            return False
        return not await self._chain.code(transfer.payer)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._queue = self._queue, []
        if batch:
            task = asyncio.create_task(self._settle(batch), name="settle a batch")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _settle(self, batch: list[_Waiting]) -> None:
        try:
            try:
                good = await self._good(batch)
            except ChainError as error:
                self._end_unsent(batch, error)
                return
            alone = [waiting for waiting in batch if waiting not in good]
            if len(good) > 1:
                await self._together(good)
            else:
                await asyncio.gather(*map(self._alone, good))
            # One that fails is asked for alone, which says why, and costs nothing once
            # the others have taken what its payer has (F6).
            await asyncio.gather(*map(self._alone, alone))
        except Exception as error:
            # Whoever waits has to hear of it, whatever it is.
            for waiting in batch:
                self._end(waiting, error=error)
            raise

    async def _good(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Those that would go through, one after another."""
        call = aggregate_call([waiting.call for waiting in batch])
        (answer,) = await self._chain.read([call])
        try:
            results = decode_results(answer, len(batch))
        except ValueError as error:
            raise TransactionFailed(call.what, reason=str(error)) from error
        pairs = zip(batch, results, strict=True)
        return [waiting for waiting, result in pairs if result.succeeded]

    async def _together(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        call = aggregate_call([waiting.call for waiting in batch])
        try:
            receipt = await self._facilitator.send_reserved(call)
        except (TransactionFailed, GasTooExpensive, GasMissing) as error:
            # Too much gas for one transaction, or too dear, or no node will have it.
            sent = isinstance(error, TransactionFailed) and error.transaction
            if len(batch) == 1 or sent:
                used = self._policy.gas_each if sent else 0  # at most
                await asyncio.gather(*(self._alone(w, used=used) for w in batch))
                return
            half = len(batch) // 2
            await self._together(batch[:half])
            await self._together(batch[half:])
            return
        except (ChainUnreachable, StoreError) as error:
            self._end_unsent(batch, error)
            return
        except ChainError as error:  # perhaps it was sent, and costs what is reserved
            for waiting in batch:
                self._end(waiting, error=error)
            return
        _log.info(
            "settled %d transfers with %d gas in %s",
            len(batch),
            receipt.gas_used,
            receipt.transaction,
        )
        await asyncio.gather(
            *(self._read(waiting, receipt, len(batch)) for waiting in batch)
        )

    async def _read(self, waiting: _Waiting, receipt: Receipt, count: int) -> None:
        named, used = waiting.transfer.trace().topics, receipt.gas_used // count
        settled = None
        if any(log.topics == named for log in receipt.logs):
            with contextlib.suppress(TransactionFailed):
                settled = transfer_result(waiting.transfer, receipt)
        if settled is None:
            await self._alone(waiting, used=used)
        else:
            self._end(waiting, settled=settled, gas=used)

    async def _alone(self, waiting: _Waiting, *, used: int = 0) -> None:
        """By itself, at its own cost, after it `used` gas in vain with others."""
        transfer = waiting.transfer
        try:
            settled = await self._by_itself(transfer, transfer.maximum)
        except (ChainError, StoreError) as error:
            self._end(waiting, error=error, gas=used)
        else:
            self._end(waiting, settled=settled, gas=used)

    async def _by_itself(self, transfer: Transfer, amount: int) -> Settled:
        """In a transaction of its own, also if the facilitator would gather it."""
        return await Facilitator.settle_transfer(self._facilitator, transfer, amount)

    def _end_unsent(self, batch: list[_Waiting], error: Exception) -> None:
        for waiting in batch:
            self._end(waiting, error=error, gas=0)

    def _end(
        self,
        waiting: _Waiting,
        *,
        settled: Settled | None = None,
        error: Exception | None = None,
        gas: int | None = None,
    ) -> None:
        """Tell it; `gas` is what it used of what was reserved for it here."""
        if gas is not None:
            self._facilitator.correct(waiting.spent, gas)
        if waiting.done.done():
            return
        if settled is not None:
            waiting.done.set_result(settled)
        elif error is not None:
            waiting.done.set_exception(error)
