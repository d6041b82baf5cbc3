"""
What a payee answers to a request: a sale to carry through, or a refusal to send.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agentpay.records import AnswerRecord
from agentpay.types import Address
from agentpay.wire.headers import JsonObject


class Sale(Protocol):
    """
    One paid request. The paywall calls `commit`, then `delivered` or `abandon`; or,
    where it can, nothing but `whole`.

    Every method may raise `StoreUnavailable` or a `ChainError`.
    """

    @property
    def payer(self) -> Address: ...

    @property
    def id(self) -> str:
        """What was paid with: it buys one answer."""
        ...

    @property
    def key(self) -> str:
        """
        Under what its answer is kept, to be told again; "" if nobody could prove then
        to be its payer.
        """
        ...

    @property
    def withheld(self) -> str:
        """
        Under what an answer is kept that its payer has not been sent, since nobody knew
        whether it was paid for; "" if there is none, and none is to be kept.
        """
        ...

    @property
    def maximum(self) -> int:
        """The most this request may cost, in base units."""
        ...

    @property
    def stream(self) -> "SaleStream | None":
        """How it is paid while its answer flows; None: whole, before the first byte."""
        ...

    @property
    def whole(self) -> "WholeSale | None":
        """
        How it is charged, closed and kept at once, where its answer is there whole
        before any of it leaves; None: one after the other.
        """
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What its answer says beside a receipt, whatever its status; once charged."""
        ...

    async def commit(self, charged: int) -> "str | Refusal":
        """
        Charge, durably, before the answer's first byte; returns the receipt header.

        A `Refusal` instead replaces the answer: the money could not be had.
        """
        ...

    async def delivered(self) -> None:
        """The answer has left."""
        ...

    async def abandon(self, *, charged: int, failed: bool) -> str:
        """The handler failed, or the client left; returns a receipt for an answer."""
        ...


class SaleStream(Protocol):
    """One sale's money while its answer flows. Methods may raise `StoreUnavailable`."""

    @property
    def charged(self) -> int:
        """What is charged when it begins: above 0 where a crash cut it short before."""
        ...

    async def begin(self) -> str:
        """
        The receipt that stands at the head of the answer; nothing in it is final.

        Raises:
            StreamExhausted: What was signed expires before anything could be settled.
        """
        ...

    async def draw(self, charged: int) -> int:
        """
        Charge so much in all, durably; returns what is charged now.

        That is less where less is covered.

        Raises:
            StreamLost: The reservation is not ours any more.
        """
        ...

    async def ask(self, need: int, wish: int) -> JsonObject | None:
        """
        What the client is told when `need` in all is not covered; None: it can add
        nothing; empty: it has added enough meanwhile. It is asked for what we `wish`,
        where that is there.
        """
        ...

    async def wait(self, charged: int, seconds: float) -> bool:
        """Wait until so much in all may be covered; False: it was not, in time."""
        ...

    async def finish(self, charged: int, units: int | None) -> JsonObject | None:
        """
        Close it at what has left; returns its last receipt, if its client reads one.

        `units` are how many of what its tariff counts, if that is one thing. Safe to
        call again.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer instead of the handler's."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b"{}"
    required: JsonObject | None = None
    """The 402 that the header says, where it is one: for showing, and adding to."""
    presented: str = ""
    """What its proven payer presented again, where that has been answered before."""
    earlier: AnswerRecord | None = None
    """That answer: told again, instead of this, to the same request."""


WholeSale = Callable[[Callable[[str], AnswerRecord]], Awaitable[AnswerRecord | Refusal]]
"""
Given what makes of a receipt the answer that leaves, charges in full for it.

The answer is kept in the same step, to be told again; nothing else is to be called. A
`Refusal` instead replaces it. What makes the answer may be called more than once.
"""
