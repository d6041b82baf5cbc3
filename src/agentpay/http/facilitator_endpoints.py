"""
Several facilitators' endpoints: which is asked, and what an answer that fails means.

Questions go to the next endpoint when one does not answer. An order goes to the next
only if it surely was not sent; after that its outcome is unknown, and whoever gave it
looks at the chain and gives it again to the same endpoint, never to another, unless it
says that another may do the same (`pass_on`).
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import httpx

from agentpay.errors import (
    ConfigurationError,
    FacilitatorUnavailable,
    MalformedMessage,
    TransactionOutcomeUnknown,
)
from agentpay.http.pools import PooledTransport
from agentpay.types import Address
from agentpay.wire import bazaar
from agentpay.wire import x402_asks as asks
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import UPTO
from agentpay.wire.x402_asks import SettleAnswer, SupportedAnswer, VerifyAnswer

_log = logging.getLogger(__name__)

_REMEMBERED_MAX: Final = 10_000
_LOOK_AGAIN_SECONDS: Final = 10.0
_TOLD_MAX: Final = 1000
_REASON_MAX: Final = 200
"""Characters of what a facilitator says that are worth logging."""
_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)
_CONNECT_SECONDS: Final = 5.0
_HEADERS: Final = {
    "content-type": "application/json",
    "accept": "application/json",
    "accept-encoding": "identity",
}
_TURNED_AWAY: Final = frozenset({401, 403, 404, 405, 413, 429})
"""Statuses that say that nothing was done: no token, no such thing, no gas left."""

_ANSWERS: Final = {"/supported": {200}, "/verify": {200, 412}, "/settle": {200}}
"""Statuses of answers: 412 where Permit2 may not move the token (x402's `exact` and
`upto` on EVM, "Verification Logic"), which some say as their verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """Who has an order, the least that it was told to move, and since when."""

    url: str
    least: int
    block: int
    """The chain's last one when it was first given: what did it is in a later one."""
    since: float
    """When this one was first given it, or silent before, by the monotonic clock."""
    passed: bool = False
    """Whether any other may have it now."""


class Endpoints:
    """Facilitators in order of preference, over one HTTP client."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        tokens: Mapping[str, str],
        timeout_seconds: float,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        """
        Raises:
            ConfigurationError: A URL cannot be used, or a token is for none of them.
        """
        self._urls = [_checked(url) for url in urls]
        self._tokens = {_checked(url): token for url, token in tokens.items()}
        if not self._urls or not set(self._tokens) <= set(self._urls):
            raise ConfigurationError("name the facilitators' URLs, and tokens of these")
        self._timeout_seconds = timeout_seconds
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._supported: dict[str, SupportedAnswer] = {}
        self._turn = list(self._urls)
        """Whom to ask for what any may do: who failed at that comes last."""
        self._silent_since: dict[str, float] = {}
        """Who gives no result of what any may do, by the monotonic clock."""
        self._asked: dict[str, _Given] = {}
        """Orders whose outcome is not known."""
        self._distrusted: set[Address] = set()
        self._told: set[tuple[str, str, str]] = set()
        """What was logged of each facilitator's catalogue: once is enough."""
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = 0.0

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            # Before the time of all is over: what was not reached was not sent.
            connect = min(_CONNECT_SECONDS, self._timeout_seconds / 2)
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(self._timeout_seconds, connect=connect),
                follow_redirects=False,
                trust_env=False,
                transport=self._transport or PooledTransport(),
            )
        return self._client

    async def look(self, network: str, schemes: Sequence[str]) -> None:
        """
        Ask all what they do.

        Raises:
            FacilitatorUnavailable: None answers, or none does any of this.
        """
        await self._look()
        if not self._supported:
            raise FacilitatorUnavailable(
                f"no facilitator answers ({', '.join(self._urls)}): try again"
            )
        for url, answer in self._supported.items():
            if any(answer.find(scheme, network) for scheme in schemes):
                return
            _log.warning("facilitator %s does nothing on %s", url, network)
        raise FacilitatorUnavailable(f"no facilitator does {schemes} on {network}")

    async def _look(self) -> None:
        self._looked_at = time.monotonic()
        for url in self._urls:
            if url in self._supported:
                continue
            try:
                body = await self._exchange("GET", url, "/supported", None)
                self._supported[url] = asks.parse_answer(SupportedAnswer, body)
            except (_NotSent, _NoAnswer, MalformedMessage) as error:
                _log.warning("facilitator %s: %s", url, error)

    def look_again(self) -> None:
        """Ask those that were down what they do, now and then; nobody waits for it."""
        if len(self._supported) == len(self._urls):
            return
        if self._looking is not None and not self._looking.done():
            return
        if time.monotonic() - self._looked_at >= _LOOK_AGAIN_SECONDS:
            self._looking = asyncio.create_task(self._look())

    def distrust(self, address: Address) -> None:
        """Bind nothing to this account any more."""
        self._distrusted.add(address)

    def bound(self, network: str) -> Address | None:
        """Whom to bind `upto` to: the first that says so."""
        addresses = (self._address(url, network) for url in self._urls)
        return next((a for a in addresses if a is not None), None)

    def _address(self, url: str, network: str) -> Address | None:
        answer = self._supported.get(url)
        kind = answer.find(UPTO, network) if answer else None
        if kind is None:
            return None
        try:
            address = Address(str((kind.extra or {})["facilitatorAddress"]))
        except (KeyError, ValueError):
            return None
        return None if address in self._distrusted else address

    async def question(
        self, request: JsonObject, *, by: tuple[Address, str] | None
    ) -> VerifyAnswer:
        """
        Verify something: with the first that gives an answer.

        Raises:
            FacilitatorUnavailable: Nobody does.
        """
        for url in self._candidates(by):
            try:
                body = await self._exchange("POST", url, "/verify", request)
                return asks.parse_answer(VerifyAnswer, body)
            except (_NotSent, _NoAnswer, MalformedMessage) as error:
                _log.warning("facilitator %s: %s", url, error)
        raise FacilitatorUnavailable("no facilitator verifies this now: try again")

    async def order(
        self,
        key: str,
        request: JsonObject,
        *,
        what: str,
        amount: int = 0,
        block: int | None = None,
        by: tuple[Address, str] | None = None,
    ) -> SettleAnswer:
        """
        Settle something, with one of them; `key` says what is the same order again,
        and `amount` what it should move. What any of them may do has a `block`, the
        chain's last one now.

        Raises:
            FacilitatorUnavailable: It was sent to nobody now.
            TransactionOutcomeUnknown: It was sent, and there is no answer to it.
        """
        before = self._asked.get(key)
        least = min(amount, before.least) if before else amount
        first = before.block if before else block or 0
        for url in self._turns(before, by, by_any=block is not None):
            since = self._silent_since.get(url, time.monotonic())
            if before and before.url == url:
                since = before.since
            given = _Given(url=url, least=least, block=first, since=since)
            self._remember(key, given)
            try:
                body = await self._exchange("POST", url, "/settle", request)
                answer = asks.parse_answer(SettleAnswer, body)
            except _NotSent as error:
                _log.warning("facilitator %s: %s", url, error)
                self._put_back(key, before)
            except (_NoAnswer, MalformedMessage) as error:
                _log.warning("facilitator %s: %s: %s", url, what, error)
                raise TransactionOutcomeUnknown(what, transaction="") from error
            else:
                return answer
        raise FacilitatorUnavailable(f"{what}: no facilitator can be reached")

    def was_given(self, key: str) -> bool:
        """Whether somebody has an order, and may still carry it out."""
        return key in self._asked

    def asked_for(self, key: str, default: int) -> int:
        """The least that an order was given with."""
        given = self._asked.get(key)
        return default if given is None else given.least

    def given_at(self, key: str, default: int) -> int:
        """The chain's last block when an order was first given."""
        given = self._asked.get(key)
        return default if given is None else given.block

    def pass_on(self, key: str, *, after_seconds: float = 0) -> None:
        """
        Have the others asked next, if who has an order and gave no result has had it
        for so long, or gave none of such orders; for later ones of this kind, too.

        For what the contract does only once, however many send it.
        """
        given, now = self._asked.get(key), time.monotonic()
        if given is None:
            return
        self._silent_since.setdefault(given.url, now)
        if now - given.since >= after_seconds:
            self._asked[key] = replace(given, passed=True)
            self._turn.remove(given.url)
            self._turn.append(given.url)

    def hear(self, key: str) -> None:
        """An order that any may do is over, by whoever has it: that one works."""
        given = self._asked.get(key)
        if given is not None:
            self._silent_since.pop(given.url, None)
        self.forget(key)

    def forget(self, key: str) -> None:
        """An order is over."""
        self._asked.pop(key, None)

    def _put_back(self, key: str, before: _Given | None) -> None:
        """Whoever was asked last was surely not given it: who had it has it still."""
        if before is None:
            self.forget(key)
        elif key in self._asked:  # it is not over, meanwhile
            self._asked[key] = before

    def _turns(
        self, given: _Given | None, by: tuple[Address, str] | None, *, by_any: bool
    ) -> Sequence[str]:
        """Whom to give an order: who has it, if anybody has it alone."""
        if given is not None and not given.passed:
            return [given.url]
        return list(self._turn) if by_any else list(self._candidates(by))

    def _remember(self, key: str, given: _Given) -> None:
        self._asked[key] = given
        if len(self._asked) > _REMEMBERED_MAX:
            del self._asked[next(iter(self._asked))]

    def _candidates(self, by: tuple[Address, str] | None) -> Iterator[str]:
        for url in self._urls:
            if by is None or self._address(url, by[1]) == by[0]:
                yield url

    async def _exchange(
        self, method: str, url: str, path: str, request: JsonObject | None
    ) -> bytes:
        headers = dict(_HEADERS)
        if url in self._tokens:
            headers["authorization"] = f"Bearer {self._tokens[url]}"
        content = None if request is None else asks.to_body(request)
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._connected().stream(
                    method, url + path, headers=headers, content=content
                ) as response,
            ):
                _check_head(response, path)
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > asks.ANSWER_BYTES_MAX:
                        raise _NoAnswer("its answer is too large")
        except _NOT_SENT as error:
            raise _NotSent(f"not reached ({type(error).__name__})") from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise _NoAnswer(f"no answer ({type(error).__name__})") from error
        outcomes = response.headers.get(bazaar.OUTCOMES)
        if request is not None and outcomes is not None:
            self._hear_of_listing(url, asks.listed_url(request), outcomes)
        return bytes(body)

    def _hear_of_listing(self, url: str, listed: str, outcomes: str) -> None:
        """Say once what a catalogue found wrong; it changes nothing of a payment."""
        try:
            why = bazaar.rejection(outcomes)
        except MalformedMessage as error:
            why = str(error)
        if why is None or not listed:
            return
        told = url, listed, why[:_REASON_MAX]
        if told not in self._told:
            if len(self._told) >= _TOLD_MAX:
                self._told.clear()
            self._told.add(told)
            _log.warning("facilitator %s does not list %s: %r", *told)


class _NotSent(Exception):
    """No connection was made, or it was turned away: surely nothing was done."""


class _NoAnswer(Exception):
    """It may have arrived, and there is no answer that can be used."""


def _check_head(response: httpx.Response, path: str) -> None:
    if response.status_code in _TURNED_AWAY:
        raise _NotSent(f"turned away with status {response.status_code}")
    if response.status_code not in _ANSWERS[path]:
        raise _NoAnswer(f"status {response.status_code}")
    # A small body may be a large one, packed: it would be too large once it is held.
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise _NoAnswer("its answer is packed, and we ask for a plain one")


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ConfigurationError("a facilitator's URL is http(s)://host[:port][/path]")
    if parts.username or parts.password:
        raise ConfigurationError("a facilitator's URL names no user: use `tokens`")
    return url.rstrip("/")
