"""
Orders to facilitators: done, failed for ever or unknown, and only the chain says which.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from agentpay.errors import (
    FacilitatorUnavailable,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.calls import Receipt
from agentpay.facilitator.once import DUPLICATE
from agentpay.http.facilitator_endpoints import Endpoints
from agentpay.ports import Chain
from agentpay.records import Settled
from agentpay.types import Address, Hash32
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402_asks import SettleAnswer
from agentpay.wire.x402_facilitator import PENDING

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_ITS_ALONE_SECONDS: Final = 120
"""How long a facilitator may give no result of what others could do as well."""
_UNDER_WAY: Final = frozenset({PENDING, DUPLICATE})
"""
What is no refusal: it was asked for before, and may be in the pool. Many facilitators
say `duplicate_settlement` of that.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Something signed that moves money once, and how the chain shows that it did."""

    key: str
    what: str
    amount: int
    valid_before: int
    chain: Chain
    used: Callable[[], Awaitable[bool]]
    find: Callable[[], Awaitable[Settled | None]]
    result: Callable[[Receipt], Awaitable[Settled]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeatable:
    """Something that the contract does once, however often it is sent."""

    key: str
    what: str
    chain: Chain
    moved: Callable[[Receipt], Awaitable[int]]
    """What a transaction moved of it; 0 if the chain does not show that it did."""


class Orders:
    """Has orders carried out, and believes what the chain shows."""

    def __init__(
        self, endpoints: Endpoints, *, check: bool, seen_within_seconds: float
    ) -> None:
        self._endpoints = endpoints
        self._check = check
        self._seen_within_seconds = seen_within_seconds

    async def carry_out(
        self, order: Order, request: JsonObject, *, by: tuple[Address, str] | None
    ) -> Settled:
        """
        Raises:
            TransactionFailed: It did not happen, and will not.
            TransactionOutcomeUnknown: It may have happened, or may yet.
            FacilitatorUnavailable: It was sent to nobody now.
        """
        # Given before, it may have been carried out since.
        if self._endpoints.was_given(order.key) and await order.used():
            return await self.resolve(order)
        try:
            answer = await self._endpoints.order(
                order.key, request, what=order.what, amount=order.amount, by=by
            )
        except TransactionOutcomeUnknown:
            return await self.resolve(order)
        if answer.success:
            return await self._proven(order, answer)
        if answer.error_reason in _UNDER_WAY:
            return await self.resolve(order, answer.transaction)
        found = await self._found(order)
        self._endpoints.forget(order.key)
        if found is None:
            raise TransactionFailed(order.what, reason=answer.reason or "refused")
        return found

    async def _proven(self, order: Order, answer: SettleAnswer) -> Settled:
        """What a facilitator says is done, if the chain shows it."""
        if not self._check:
            self._endpoints.forget(order.key)
            return Settled(transaction=answer.transaction, amount=order.amount)
        try:
            receipt = await self.receipt(order.chain, order.what, answer.transaction)
            settled = await order.result(receipt)
            if await order.used():
                self._endpoints.forget(order.key)
                return settled
        except TransactionFailed as error:
            _log.warning("%s: its facilitator says done: %s", order.what, error)
        return await self.resolve(order, answer.transaction)

    async def resolve(self, order: Order, transaction: str = "") -> Settled:
        """
        Nobody can be believed but the chain: done, too late for ever, or unknown.

        Raises:
            TransactionFailed: It expired.
            TransactionOutcomeUnknown: It may be mined yet.
        """
        head = await order.chain.head()
        found = await self._found(order)
        if found is not None:
            self._endpoints.forget(order.key)
            return found
        if head.timestamp > order.valid_before:
            self._endpoints.forget(order.key)
            reason = "it expired, and did not pay for this"
            raise TransactionFailed(order.what, reason=reason)
        raise TransactionOutcomeUnknown(order.what, transaction=transaction)

    async def _found(self, order: Order) -> Settled | None:
        """
        What it did, if our node shows that.

        One that is used and shows nothing was cancelled, or our node is late.
        """
        return await order.find() if await order.used() else None

    async def repeat(self, order: Repeatable, request: JsonObject) -> Settled:
        """
        What a transaction moved that a facilitator names, if it is later than this.

        Who names none that did it is asked again after the others; so is, after a
        while, who gives no answer, or calls it under way.

        Raises:
            TransactionFailed: It refuses what nobody was given before.
            TransactionOutcomeUnknown: It may have happened, or may yet.
            FacilitatorUnavailable: It was sent to nobody now.
        """
        key, what, last = order.key, order.what, (await order.chain.head()).number
        again = self._endpoints.was_given(key)
        first = self._endpoints.given_at(key, last)
        try:
            answer = await self._endpoints.order(key, request, what=what, block=last)
        except (TransactionOutcomeUnknown, FacilitatorUnavailable):
            self._endpoints.pass_on(key, after_seconds=_ITS_ALONE_SECONDS)
            raise
        if answer.success:
            return await self._shown(order, answer.transaction, since=first)
        if answer.error_reason in _UNDER_WAY:
            self._endpoints.pass_on(key, after_seconds=_ITS_ALONE_SECONDS)
            raise TransactionOutcomeUnknown(what, transaction=answer.transaction)
        self._endpoints.hear(key)
        if again:  # perhaps it is refused because it is done
            raise TransactionOutcomeUnknown(what, transaction="")
        raise TransactionFailed(what, reason=answer.reason or "refused")

    async def _shown(
        self, order: Repeatable, transaction: str, *, since: int
    ) -> Settled:
        """What a transaction did that is named; if nothing, another may do it."""
        try:
            settled = await self._done_by(order, transaction, since=since)
        except (TransactionFailed, TransactionOutcomeUnknown) as error:
            _log.warning("%s: its facilitator says done: %s", order.what, error)
            self._endpoints.pass_on(order.key)
            raise TransactionOutcomeUnknown(order.what, transaction="") from error
        self._endpoints.hear(order.key)
        return settled

    async def _done_by(
        self, order: Repeatable, transaction: str, *, since: int
    ) -> Settled:
        """Our node may know of a transaction before it shows what that did."""
        receipt = await self.receipt(order.chain, order.what, transaction)
        deadline = asyncio.get_running_loop().time() + self._seen_within_seconds
        while receipt.block > since:
            if amount := await order.moved(receipt):
                return Settled(transaction=receipt.transaction, amount=amount)
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(_POLL_SECONDS)
        named = receipt.transaction
        raise TransactionFailed(order.what, reason="that is not it", transaction=named)

    async def receipt(self, chain: Chain, what: str, transaction: str) -> Receipt:
        """
        Raises:
            TransactionFailed: It is no transaction, or one that reverted.
            TransactionOutcomeUnknown: Our node does not know it yet.
        """
        try:
            named = Hash32(transaction)
        except ValueError as error:
            raise TransactionFailed(what, reason="it names no transaction") from error
        deadline = asyncio.get_running_loop().time() + self._seen_within_seconds
        while True:
            receipt = await chain.receipt(named)
            if receipt is not None:
                return receipt
            if asyncio.get_running_loop().time() > deadline:
                raise TransactionOutcomeUnknown(what, transaction=named)
            await asyncio.sleep(_POLL_SECONDS)
