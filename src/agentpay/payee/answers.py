"""
Answers that were paid for, kept a while: a request that comes again is told the same.

They are found by the name that the payer gave the payment (x402's `payment-identifier`)
together with the whole payment, which only its payer can send; or by what the payer
signed, once that is verified, as long as the chain shows it to nobody. So the answer to
a transfer without a name is not kept. What is kept is bounded in bytes and time.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from agentpay.errors import ConfigurationError, StoreError
from agentpay.payee.closings import Closings
from agentpay.payee.offers import answer
from agentpay.payee.pricing import Order, Terms
from agentpay.payee.sales import Refusal, Sale, SaleStream
from agentpay.ports import PayeeStore
from agentpay.records import AnswerRecord
from agentpay.types import Address, ChainId, Hash32
from agentpay.wire import x402_write as write

_log = logging.getLogger(__name__)

_SWEEPS = 8
"""What is kept grows by a share of its bound, then it is swept back by as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPolicy:
    """How much of what was sold a payee keeps to tell it again, and how long."""

    bytes_each: int = 64 * 1024
    """A longer answer is not kept; 0 keeps none, and takes no names for payments."""
    bytes_total: int = 64 * 1024 * 1024
    kept_seconds: int = 3600

    def __post_init__(self) -> None:
        if not 0 <= self.bytes_each <= self.bytes_total // _SWEEPS:
            raise ConfigurationError(
                f"bytes_each is 0 to an eighth of bytes_total ({self.bytes_total}), not"
                f" {self.bytes_each}"
            )
        if self.kept_seconds < 1:
            raise ConfigurationError(f"kept_seconds is positive: {self.kept_seconds}")


KEEP_ANSWERS = AnswerPolicy()
"""What a payee keeps unless it is told otherwise."""


class Answers:
    """What one payee has answered of late."""

    def __init__(
        self,
        *,
        policy: AnswerPolicy,
        chain: ChainId,
        store: PayeeStore,
        clock: Callable[[], float],
    ) -> None:
        self.policy = policy
        self.chain = chain
        self._store = store
        self._clock = clock
        self._named: dict[str, bytes] = {}
        """Names whose requests run now."""
        self._grown = policy.bytes_total
        self._sweeping: asyncio.Task[None] | None = None
        self._closings = Closings()

    async def find(self, key: str, request: bytes) -> AnswerRecord | None:
        """
        The answer to the same request, paid for in the same way.

        Raises:
            StoreUnavailable: It cannot be read now.
        """
        known = await self._known(key)
        return known if known and known.status and known.request == request else None

    async def once(
        self,
        name: str,
        payment: bytes,
        terms: Terms,
        sell: Callable[[], Awaitable[Sale | Refusal]],
        *,
        again: bool = True,
    ) -> Sale | Refusal:
        """
        Sell under a payer's name for the payment: the first time only.

        `payment` is a hash of all of it: whoever has that is its payer, or was shown
        it by its payer, and is told the answer before anything of it is verified. What
        is paid for under a name that is taken, and has no answer, is left to `sell`;
        unless it must not be sold `again`, since the payment itself could buy more.

        Raises:
            ChainError, StoreError: As `sell` does; nothing was decided.
        """
        key, request = f"name {name}", request_of(terms, payment)
        if key in self._named:
            return self._busy() if self._named[key] == request else self._conflict()
        self._named[key] = request
        sold: NamedSale | None = None
        try:
            known = await self._known(key)
            if known is not None and known.request != request:
                return self._conflict()
            if known is not None and known.status:
                return self._conflict(known)
            if known is not None and not again:
                return self._conflict()
            outcome = await sell()
            if isinstance(outcome, Refusal):
                return outcome
            taken = await self._take(key, request, outcome)
            owed = terms.order is Order.SETTLE_FIRST or outcome.withheld != ""
            sold = NamedSale(self, outcome, taken, owed=owed)
            return sold
        finally:
            if sold is None:
                self.release(key)

    async def _take(self, key: str, request: bytes, sale: Sale) -> AnswerRecord:
        """A name is taken, durably, before its request runs."""
        taken = AnswerRecord(key=key, request=request, kept_until=self._until())
        try:
            await self._store.keep_answer(taken, durable=True)
        except BaseException:
            give_back = partial(sale.abandon, charged=0, failed=True)
            await asyncio.shield(self._closings.close(give_back))
            raise
        return taken

    def _conflict(self, earlier: AnswerRecord | None = None) -> Refusal:
        code = "payment_identifier_conflict"
        refusal = answer(
            409,
            title="This payment identifier was used before",
            detail="for another payment or another request; name a new payment anew",
            receipt=write.receipt(success=False, chain=self.chain, error=code),
        )
        headers = {n: v for n, v in refusal.headers.items() if n != "retry-after"}
        return replace(refusal, headers=headers, earlier=earlier)

    def _busy(self) -> Refusal:
        code = "settlement_pending"
        return answer(
            503,
            title="The request that this payment identifier names is still running",
            detail="send the same request again",
            receipt=write.receipt(success=False, chain=self.chain, error=code),
        )

    def release(self, key: str) -> None:
        """A named request does not run any more."""
        self._named.pop(key, None)

    async def drop(self, key: str) -> None:
        """A name that bought nothing may be used again."""
        await self._store.drop_answer(key)

    def make(
        self,
        sale: Sale,
        terms: Terms,
        *,
        content: bytes,
        status: int,
        headers: tuple[tuple[bytes, bytes], ...],
        body: bytes,
        withheld: bytes = b"",
    ) -> AnswerRecord:
        """
        A whole answer as it is kept. One that is `withheld` does not leave, and is for
        that request alone: see `Sale.withheld`.
        """
        key, request = sale.key, request_of(terms)
        if withheld:
            key, request = sale.withheld, withheld
        elif isinstance(sale, NamedSale):
            request = sale.request
        return AnswerRecord(
            key=key,
            request=request,
            kept_until=self._until(),
            content=content,
            status=status,
            headers=headers,
            body=body,
        )

    async def keep(self, answer: AnswerRecord, *, durable: bool = False) -> None:
        """
        Remember an answer, before its last byte leaves; it is saved no later than that
        its payment is used up. What is too large, or cannot be kept, is not.
        """
        if not answer.key or answer.size > self.policy.bytes_each:
            return
        try:
            await self._store.keep_answer(answer, durable=durable)
        except StoreError as error:
            _log.warning("an answer is not kept: %s", error.code)
            return
        self.grow(answer)

    def grow(self, answer: AnswerRecord) -> None:
        """One more is kept: what is too old, or too much, is swept now and then."""
        self._grown += answer.size
        if self._grown >= self.policy.bytes_total // _SWEEPS and not self._sweeping:
            self._grown = 0
            self._sweeping = asyncio.create_task(self._sweep(), name="sweep answers")

    async def _sweep(self) -> None:
        total = self.policy.bytes_total
        try:
            await self._store.sweep_answers(
                now=int(self._clock()), bytes_total=total - total // _SWEEPS
            )
        except StoreError as error:
            self._grown = total
            _log.warning("old answers are not swept yet: %s", error.code)
        finally:
            self._sweeping = None

    async def _known(self, key: str) -> AnswerRecord | None:
        known = await self._store.find_answer(key)
        return known if known and known.kept_until > self._clock() else None

    def _until(self) -> int:
        return int(self._clock()) + self.policy.kept_seconds


class NamedSale:
    """A sale under a payer's name for it; see `Sale`."""

    whole = None

    def __init__(
        self, answers: Answers, sale: Sale, taken: AnswerRecord, *, owed: bool
    ) -> None:
        """`owed` says that it may be paid already: the name stays with its payment."""
        self._answers = answers
        self._sale = sale
        self._owed = owed
        self._taken = taken

    @property
    def id(self) -> str:
        return self._sale.id

    @property
    def key(self) -> str:
        return self._taken.key

    @property
    def request(self) -> bytes:
        """What the name stands for."""
        return self._taken.request

    @property
    def payer(self) -> Address:
        return self._sale.payer

    @property
    def withheld(self) -> str:
        return self._sale.withheld

    @property
    def maximum(self) -> int:
        return self._sale.maximum

    @property
    def stream(self) -> SaleStream | None:
        return self._sale.stream

    @property
    def headers(self) -> Mapping[str, str]:
        return self._sale.headers

    async def commit(self, charged: int) -> str | Refusal:
        """See `Sale.commit`. A refused payment leaves its name free, an unknown not."""
        receipt = await self._sale.commit(charged)
        if not isinstance(receipt, Refusal):
            return receipt
        self._owed = receipt.status != 402
        if not self.withheld:
            self._answers.release(self.key)
        if not self._owed:
            await self._answers.drop(self.key)
        return receipt

    async def delivered(self) -> None:
        """See `Sale.delivered`."""
        try:
            await self._sale.delivered()
        finally:
            self._answers.release(self.key)

    async def abandon(self, *, charged: int, failed: bool) -> str:
        """See `Sale.abandon`. What is paid, or may be, is owed still, by its name."""
        try:
            receipt = await self._sale.abandon(charged=charged, failed=failed)
            if not self._owed:
                await self._answers.drop(self.key)
            return receipt
        finally:
            self._answers.release(self.key)


def voucher_key(channel: Hash32, cumulative: int) -> str:
    """By what the answer that a voucher bought is found, if it has no other name."""
    return f"voucher {channel} {cumulative}"


def request_of(terms: Terms, payment: bytes = b"") -> bytes:
    """A hash of what is asked for, and of the payment where that is to be the same."""
    parts = (terms.resource.encode(), terms.query.encode(), payment)
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(framed).digest()
