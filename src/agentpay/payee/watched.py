"""
What a payee does beside its requests, for who watches it: counted, and told as spans.

Counts are of this process, and are kept in memory alone: money itself is in the books.
"""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from agentpay.errors import AgentPayError

Span = Callable[[str, int], AbstractContextManager[object]]
"""Surrounds a step of that name, which is about so many channels or payments."""


def _unseen(step: str, count: int) -> AbstractContextManager[object]:
    del step, count
    return nullcontext()


class Watched:
    """The steps of one payee, by what came of them."""

    def __init__(self) -> None:
        self.steps: Counter[tuple[str, str]] = Counter()
        """By name, and by the code of what went wrong; "" is nothing."""
        self.rpc_failures: Counter[tuple[str, str]] = Counter()
        """By endpoint, and by code."""
        self.synced_at = 0.0
        """When the chain was last seen whole; 0 is not yet."""
        self.span: Span = _unseen

    @contextmanager
    def step(self, name: str, count: int) -> Generator[None]:
        """A step that costs gas: counted, in a span of its own."""
        with self.span(name, count), self.counting(name):
            yield

    @contextmanager
    def counting(self, name: str) -> Generator[None]:
        """Whatever is done in it, once; not where it is cancelled."""
        try:
            yield
        except Exception as error:
            self.failed(name, error)
            raise
        self.steps[name, ""] += 1

    def failed(self, name: str, error: Exception) -> None:
        """A step that was not done, for a reason of ours or of others."""
        code = error.code if isinstance(error, AgentPayError) else "bug"
        self.steps[name, code] += 1

    def rpc_failed(self, endpoint: str, code: str) -> None:
        """An endpoint had no answer to give."""
        self.rpc_failures[endpoint, code] += 1
