"""
Several JSON-RPC endpoints of one chain, used as one.

Reads go to the first that is well. One that fails rests for a while; one whose last
block is behind what any of them has shown is not read from, since what it says may be
over. Each is asked once for its chain before it is used. Transactions go to all.
"""

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from agentpay.chain.decoding import quantity
from agentpay.chain.height import BehindOthers, Height
from agentpay.chain.json_rpc import JsonRpc, NodeRefused, RequestNotSent, Rpc
from agentpay.chain.refusals import Refusal, is_about_the_call, refusal_of
from agentpay.chain.told import Tell, ToldRpc
from agentpay.errors import (
    ChainError,
    ChainUnreachable,
    ConfigurationError,
    WrongChain,
)
from agentpay.types import ChainId

_log = logging.getLogger(__name__)

Requests = Sequence[tuple[str, Sequence[object]]]
Answers = list[Any | NodeRefused]

_SENDS: Final = "eth_sendRawTransaction"
_POOLED: Final = "eth_getTransactionByHash"
"""What one node may know and another not."""
_REST_SECONDS_MIN: Final = 1.0
_REST_SECONDS_MAX: Final = 60.0


class Endpoint:
    """One of them: whether it is of the right chain, and how it did lately."""

    def __init__(self, rpc: Rpc, chain: ChainId) -> None:
        self.rpc = rpc
        self.wrong: WrongChain | None = None
        self._chain = chain
        self._checked = False
        self._rests_until = 0.0
        self._rest = _REST_SECONDS_MIN

    async def ready(self) -> None:
        """The same as `check`, asked once."""
        if self.wrong is not None:
            raise self.wrong
        if not self._checked:
            await self.check()

    async def check(self) -> None:
        """
        Raises:
            WrongChain: It serves another chain.
            ChainUnreachable: It does not say.
        """
        try:
            answer = await self.rpc.call("eth_chainId")
        except NodeRefused as refusal:
            raise ChainUnreachable(f"{refusal}: use another endpoint") from refusal
        with self.rpc.reading("eth_chainId"):
            found = quantity(answer)
        if found != self._chain:
            self.wrong = WrongChain(
                f"{self.rpc.where} serves chain {found}, expected {self._chain}:"
                " use an endpoint of that chain"
            )
            raise self.wrong
        self._checked = True

    @property
    def rests(self) -> bool:
        """Whether it failed a moment ago."""
        return time.monotonic() < self._rests_until

    def failed(self) -> None:
        """Leave it alone for a while, and longer each time."""
        self._rests_until = time.monotonic() + self._rest
        self._rest = min(2 * self._rest, _REST_SECONDS_MAX)

    def did_well(self) -> None:
        """It is the first choice again."""
        self._rests_until, self._rest = 0.0, _REST_SECONDS_MIN


class Endpoints(Rpc):
    """Several endpoints as one `Rpc`. Belongs to one event loop."""

    def __init__(self, endpoints: Sequence[Endpoint], *, height: Height) -> None:
        """Below `height` none is read from, unless all have been for long."""
        self._endpoints = endpoints
        self._height = height
        self._sending: set[asyncio.Task[Answers]] = set()

    @property
    def where(self) -> str:
        return ", ".join(endpoint.rpc.where for endpoint in self._endpoints)

    async def aclose(self) -> None:
        """See `Rpc.aclose`."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        for endpoint in self._endpoints:
            await endpoint.rpc.aclose()

    async def batch(self, requests: Requests) -> Answers:
        """See `Rpc.batch`."""
        if any(method == _SENDS for method, _ in requests):
            return await self._send(requests)
        try:
            answers = await self._height.ask(partial(self._read, requests))
        except BehindOthers as error:  # asking again was done here
            raise ChainUnreachable(str(error)) from error
        if all(answer is not None for answer in answers):
            return answers
        return await self._look_elsewhere(requests, answers)

    async def _read(self, requests: Requests) -> Answers:
        """
        Raises:
            BehindOthers: All of them are; the one that is the least.
            ChainUnreachable: No usable answer.
        """
        refused: Answers | None = None
        failures: list[ChainError] = []
        for endpoint in self._in_order():
            try:
                answers = await self._read_from(endpoint, requests)
            except (ChainUnreachable, WrongChain) as error:
                _log.debug("%s", error)
                failures.append(error)
                if not isinstance(error, BehindOthers):
                    endpoint.failed()
                continue
            if any(_may_do_elsewhere(answer) for answer in answers):
                refused = refused or answers
                endpoint.failed()
                continue
            endpoint.did_well()
            return answers
        if refused is not None:
            return refused
        # One that does not answer may have a block still: it is not gone meanwhile.
        behind = [f for f in failures if isinstance(f, BehindOthers)]
        of_this_chain = [f for f in failures if not isinstance(f, WrongChain)]
        if behind and len(behind) == len(of_this_chain):
            raise min(behind, key=lambda failure: failure.blocks)
        told = "; ".join(str(failure) for failure in failures)
        if all(isinstance(failure, RequestNotSent) for failure in failures):
            raise RequestNotSent(told)
        if all(isinstance(failure, WrongChain) for failure in failures):
            raise failures[0]
        raise ChainUnreachable(told)

    async def _read_from(self, endpoint: Endpoint, requests: Requests) -> Answers:
        """
        Raises:
            BehindOthers: What it says may be over.
        """
        await endpoint.ready()
        before = self._height.seen
        head, *answers = await endpoint.rpc.batch([("eth_blockNumber", ()), *requests])
        if isinstance(head, NodeRefused):
            raise ChainUnreachable(f"{head}: try again") from head
        with endpoint.rpc.reading("eth_blockNumber"):
            number = quantity(head)
        self._height.see(number, before=before, where=endpoint.rpc.where)
        return answers

    async def _look_elsewhere(self, requests: Requests, answers: Answers) -> Answers:
        """A transaction that waits may be known to one node only."""
        missing = [
            number
            for number, (method, _) in enumerate(requests)
            if method == _POOLED and answers[number] is None
        ]
        if not missing:
            return answers
        for endpoint in self._in_order():
            try:
                await endpoint.ready()
                found = await endpoint.rpc.batch([requests[n] for n in missing])
            except (ChainUnreachable, WrongChain):
                continue
            for number, answer in zip(missing, found, strict=True):
                if answers[number] is None and isinstance(answer, dict):
                    answers[number] = answer
        return answers

    async def _send(self, requests: Requests) -> Answers:
        """To all; what one takes is taken, and the others need not be waited for."""
        sending = [
            asyncio.create_task(self._send_to(endpoint, requests))
            for endpoint in self._endpoints
        ]
        self._sending.update(sending)
        for task in sending:
            task.add_done_callback(self._sent)
        waiting = set(sending)
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if task.exception() is None and not any(
                    isinstance(answer, NodeRefused) for answer in task.result()
                ):
                    return task.result()
        return _together(sending, len(requests))

    def _sent(self, task: "asyncio.Task[Answers]") -> None:
        self._sending.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has seen it, or had no need to

    async def _send_to(self, endpoint: Endpoint, requests: Requests) -> Answers:
        try:
            await endpoint.ready()
        except (ChainUnreachable, WrongChain) as error:
            raise RequestNotSent(str(error)) from error
        return await endpoint.rpc.batch(requests)

    def _in_order(self) -> Iterator[Endpoint]:
        """The first that is well; those that rest at last."""
        usable = [endpoint for endpoint in self._endpoints if endpoint.wrong is None]
        return iter(sorted(usable or self._endpoints, key=lambda e: e.rests))


def _together(sent: "list[asyncio.Task[Answers]]", count: int) -> Answers:
    """
    What several say of the same bytes, none of which took all of them.

    Raises:
        ChainUnreachable: One may have taken them, and does not say.
        RequestNotSent: None of them was reached.
    """
    failures = [e for task in sent if (e := task.exception()) is not None]
    for failure in failures:
        if not isinstance(failure, RequestNotSent):
            raise failure
    answers = [task.result() for task in sent if task.exception() is None]
    if not answers:
        raise failures[0]
    return [min((a[n] for a in answers), key=_weight) for n in range(count)]


def _weight(answer: Any | NodeRefused) -> int:
    """That one took it says most, then that one has it, or perhaps has."""
    if not isinstance(answer, NodeRefused):
        return 0
    meaning = refusal_of(answer)
    return 1 if meaning is Refusal.KNOWN else 2 if meaning is Refusal.BUSY else 3


def _may_do_elsewhere(answer: Any | NodeRefused) -> bool:
    """Whether a node refused for reasons of its own, not for what was asked."""
    return isinstance(answer, NodeRefused) and not is_about_the_call(answer)


def open_endpoints(
    url: str | Sequence[str],
    *,
    chain: ChainId,
    timeout_seconds: float,
    failed: Tell | None = None,
) -> list[Endpoint]:
    """
    The endpoints that a setting names: a list of URLs, or one text with commas.

    `failed` is told of each failure of each.

    Raises:
        ConfigurationError: None at all, or not http or https URLs.
    """
    urls = re.split(r"[,\s]+(?=https?://)", url) if isinstance(url, str) else url
    if not urls:
        raise ConfigurationError("a chain needs at least one RPC endpoint")
    rpcs: list[Rpc] = [
        JsonRpc(one.strip(), timeout_seconds=timeout_seconds) for one in urls
    ]
    if failed is not None:
        rpcs = [ToldRpc(rpc, failed) for rpc in rpcs]
    return [Endpoint(rpc, chain) for rpc in rpcs]


async def check_all(endpoints: Sequence[Endpoint]) -> None:
    """
    Ask each for its chain.

    Raises:
        WrongChain: One of them serves another.
        ChainUnreachable: None of them answers.
    """
    checks = (endpoint.check() for endpoint in endpoints)
    outcomes = await asyncio.gather(*checks, return_exceptions=True)
    failures = [outcome for outcome in outcomes if outcome is not None]
    for failure in failures:
        if not isinstance(failure, ChainUnreachable):
            raise failure
    if len(failures) == len(endpoints):
        raise failures[0]
    for failure in failures:
        _log.warning("%s", failure)
