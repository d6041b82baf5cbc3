"""A shop that sells sessions of MPP, and what tests look at when agents pay there."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx

from agentpay import Agent, MppTerms, Payee, Paywall, Policy
from agentpay.chain.rpc import RpcChain
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.session_escrow_abi import SessionOnChain
from agentpay.onchain import read_session
from agentpay.payer.policy import scale
from agentpay.records import PayerRecord, session_config
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.challenge import (
    WWW_AUTHENTICATE,
    Challenge,
    format_challenge,
    parse_challenges,
)
from agentpay.wire.mpp.credential import (
    find_credential,
    format_credential,
    parse_credential,
)
from agentpay.wire.mpp.encoding import encode_object
from agentpay.wire.parallel import KEY
from tests.http.world import ROUTES, Shop, Wire, a_payee, through
from tests.payee.mpp_hand import MPP

BASE = "https://shop.example"
PRICE = 1000
BY_SESSION = Policy(
    prefer=("session",), deposit="$0.1", low_water="$0.01", give_up_seconds=3
)
HASTY = replace(BY_SESSION, give_up_seconds=0.5)

Reword = Callable[[JsonObject], JsonObject]
"""What a challenge of a session asks for, put otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a shop sells on, channels unless there is `mpp`, and how it is paid."""

    mpp: MppTerms | None
    policy: Policy

    @property
    def hasty(self) -> Policy:
        return replace(self.policy, give_up_seconds=0.5)


@contextlib.asynccontextmanager
async def a_market(
    chain: LocalChain,
    *,
    mpp: MppTerms | None = MPP,
    reword: Reword | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Shop, Payee, Wire]]:
    """A shop that takes both protocols, or x402 alone, and the wire to it."""
    async with a_payee(chain, mpp=mpp, **options) as payee:
        shop = Shop()
        there: httpx.AsyncBaseTransport = through(
            Paywall(shop, payee=payee, routes=ROUTES)
        )
        if reword is not None:
            there = Reworded(there, reword)
        yield shop, payee, Wire(there)


class Reworded(httpx.AsyncBaseTransport):
    """
    A payee whose challenges of sessions say something else.

    Its paywall gets each challenge back as it was, so that it knows it.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, reword: Reword) -> None:
        self.inner = inner
        self.reword = reword
        self._said: dict[str, str] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        found = find_credential(request.headers.get_list("authorization"))
        if found is not None:
            paid = parse_credential(found)
            was = self._said.get(paid.challenge.id, paid.challenge.request)
            as_it_was = replace(paid, challenge=replace(paid.challenge, request=was))
            headers = request.headers.copy()
            headers["authorization"] = format_credential(as_it_was)
            request = httpx.Request(
                request.method, request.url, headers=headers, stream=request.stream
            )
        response = await self.inner.handle_async_request(request)
        said = response.headers.get_list(WWW_AUTHENTICATE)
        if said:
            others = [
                (name, value)
                for name, value in response.headers.multi_items()
                if name != WWW_AUTHENTICATE.lower()
            ]
            ours = [(WWW_AUTHENTICATE, line) for line in self._lines(said)]
            response.headers = httpx.Headers([*others, *ours])
        return response

    def _lines(self, said: list[str]) -> list[str]:
        return [format_challenge(self._changed(c)) for c in parse_challenges(said)]

    def _changed(self, challenge: Challenge) -> Challenge:
        if challenge.intent != "session":
            return challenge
        self._said[challenge.id] = challenge.request
        words = self.reword(challenge.decode_request())
        return replace(challenge, request=encode_object(words))

    async def aclose(self) -> None:
        await self.inner.aclose()


def alone(words: JsonObject) -> JsonObject:
    """Serves one request at a time, as the draft has it."""
    return within(words, **{KEY: None})


def within(words: JsonObject, **changes: Any) -> JsonObject:
    """The same with other `methodDetails`; None takes one away."""
    details: Any = words["methodDetails"]
    changed = {**details, **changes}
    kept = {name: value for name, value in changed.items() if value is not None}
    return {**words, "methodDetails": kept}


async def the_session(agent: Agent) -> PayerRecord:
    """An agent's only session."""
    (record,) = await agent.channels()
    return record


async def on_chain(chain: LocalChain, record: PayerRecord) -> SessionOnChain:
    """What the escrow says of a session."""
    async with RpcChain(
        chain.rpc_url, chain_id=chain.chain_id, error_names=ERROR_NAMES
    ) as reads:
        return await read_session(reads, session_config(record))


async def in_the_world(agent: Agent) -> tuple[int, int, int]:
    """Spent, deposited and held by an agent, in base units."""
    spending = await agent.spending()
    unit = scale(1, 6)
    return spending.spent // unit, spending.deposited // unit, spending.held // unit


def payload_of(credential: str) -> Any:
    """What a credential pays by."""
    found = find_credential([credential])
    assert found is not None
    return parse_credential(found).payload


def vouchers(wire: Wire, *, fresh: bool = False) -> list[int]:
    """The amounts that were presented, in order; with `fresh`, each once."""
    amounts = [int(payload_of(c)["cumulativeAmount"]) for c in wire.credentials]
    return list(dict.fromkeys(amounts)) if fresh else amounts


async def other_end(payee: Payee, channel: Hash32) -> Any:
    """A session as its payee keeps it."""
    return await payee._running.store.payee.read(channel)
