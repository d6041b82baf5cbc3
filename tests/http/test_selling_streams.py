"""Streams behind the paywall: charged as they flow, for what left and nothing else."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agentpay import Order, Payee, Paywall, Rate, Route, Streaming, Tariff
from agentpay.core.meter import TOKEN, Rounding
from agentpay.core.payee_channel import PayeeChannel
from agentpay.core.payee_events import ChainSeen
from agentpay.core.payee_rules import apply
from agentpay.errors import ConfigurationError
from agentpay.evm.batch_settlement import ChannelConfig, channel_id
from agentpay.http.paywall import App, Message, Receive, Scope, Send
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.stream_errors import StreamAbandoned, StreamEnded, StreamExhausted
from agentpay.testing.local_chain import LocalChain
from agentpay.wire import parallel
from agentpay.wire.mpp.sse import RECEIPT, EventReader, ServerEvent
from agentpay.wire.x402 import PaymentResponse, parse_response
from tests.http.test_selling_on_channels import unreliable
from tests.http.world import CHANNEL_ONLY, EXACT_ONLY, a_payee, eventually
from tests.payee.hand import HandPayer, terms_of
from tests.payee.test_selling_by_permit2 import a_payer

PER_TOKEN = 20
INCREMENT = 100
MAXIMUM = 2000
TARIFF = Tariff(rates=(Rate(unit=TOKEN, price=PER_TOKEN),), rounding=Rounding.UP)


def route(**changes: Any) -> Route:
    options: dict[str, Any] = {
        "price": MAXIMUM,
        "metered": True,
        "tariff": TARIFF,
        "streaming": Streaming(increment=INCREMENT),
        "schemes": CHANNEL_ONLY,
    }
    return Route(**{**options, **changes})


ROUTES = {
    "/stream": route(),
    "/exact": route(schemes=EXACT_ONLY),
    "/whole": route(streaming=None),
}


@dataclass
class Model:
    """An application that makes tokens, as a stream of events."""

    tokens: int = 10
    piece: Callable[[int], bytes] = lambda n: b"data: token %d\n\n" % n
    kind: bytes = b"text/event-stream"
    charges: bool = True
    raises_at: int | None = None
    before: Callable[[int], Awaitable[None]] | None = None
    made: int = 0
    ended: StreamEnded | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        meter = scope["agentpay"].meter
        headers = [(b"content-type", self.kind), *self.headers]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start)
        try:
            for n in range(self.tokens):
                if n == self.raises_at:
                    raise RuntimeError("the model failed")
                if self.before is not None:
                    await self.before(n)
                if self.charges:
                    await meter.charge(tokens=1)
                await send(piece(self.piece(n)))
                self.made += 1
                await asyncio.sleep(0)
        except StreamEnded as ended:
            self.ended = ended
            raise
        await send({"type": "http.response.body", "body": b""})


def piece(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


@dataclass
class Listener:
    """A client at the other end of ASGI, which may leave after some pieces."""

    header: str
    path: str = "/stream"
    name: str = "payment-signature"
    leaves_after: int | None = None
    raises: bool = True
    """Whether a server says so where it is sent to, as ASGI 2.4 has it."""
    head: Message = field(default_factory=dict[str, Any])
    pieces: list[bytes] = field(default_factory=list)
    whole: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self, wall: Paywall) -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": self.path,
            "query_string": b"",
            "headers": [(self.name.lower().encode(), self.header.encode())],
        }
        if self.leaves_after == 0:
            self.gone.set()
        await wall(scope, self.receive, self.send)

    asked: bool = False

    async def receive(self) -> Message:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b""}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.head = message
            return
        body = message.get("body", b"")
        if self.gone.is_set() and self.raises:
            raise OSError("the client is gone")
        if body:
            self.pieces.append(body)
        self.whole = not message.get("more_body")
        if len(self.pieces) == self.leaves_after:
            self.gone.set()

    @property
    def events(self) -> list[ServerEvent]:
        return EventReader().feed(b"".join(self.pieces))

    @property
    def tokens(self) -> int:
        return sum(event.event == "message" for event in self.events)

    def header_receipt(self) -> PaymentResponse:
        found = dict(self.head["headers"])[b"payment-response"]
        return parse_response(found.decode())

    def last_receipt(self) -> PaymentResponse:
        last = self.events[-1]
        assert last.event == RECEIPT
        return PaymentResponse.model_validate(json.loads(last.data))


@dataclass
class Customer:
    """Pays for one stream after another on one channel."""

    payer: HandPayer
    payee: Payee
    config: ChannelConfig
    signed: int = 0

    async def ask(self, path: str = "/stream", **options: Any) -> Listener:
        terms = terms_of(self.payee, ROUTES[path], resource=f"GET {path}")
        record = await self.record()
        charged = record.ledger.charged if record else 0
        if self.config.tagged:
            self.signed = max(self.signed + 1, charged + MAXIMUM)
        else:
            self.signed = charged + MAXIMUM
        if record is None:
            header = await self.payer.funding(
                self.config, 1_000_000, self.signed, terms
            )
        else:
            header = await self.payer.voucher(self.config, self.signed, terms)
        return Listener(header, path=path, **options)

    async def record(self) -> PayeeRecord | None:
        channel = channel_id(self.config, self.payer.asset.chain)
        return await self.payee._running.store.payee.read(channel)

    async def ledger(self) -> PayeeChannel:
        record = await self.record()
        assert record is not None
        return record.ledger

    async def charged(self) -> int:
        return (await self.ledger()).charged


@contextlib.asynccontextmanager
async def a_customer(chain: LocalChain, *, tagged: bool) -> AsyncIterator[Customer]:
    async with a_payee(chain) as payee:
        wallet = await chain.funded_wallet(ether=0)
        payer = HandPayer(wallet, payee.settings)
        yield Customer(payer, payee, payer.config(tagged=tagged))


def wall_of(customer: Customer, model: Model) -> Paywall:
    return Paywall(model, payee=customer.payee, routes=ROUTES)


@pytest.mark.parametrize("tagged", [True, False])
async def test_a_stream_costs_what_left_of_it(
    agentpay_shared_chain: LocalChain, tagged: bool
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=tagged) as customer:
        for tokens in (0, 1, 5, 6, 100):
            before = await customer.charged() if customer.signed else 0
            listener = await customer.ask()
            await listener.listen(wall_of(customer, Model(tokens=tokens)))

            ledger = await customer.ledger()
            assert listener.whole
            assert listener.tokens == tokens
            assert ledger.charged - before == tokens * PER_TOKEN
            assert ledger.due == ledger.charged
            assert not ledger.running


async def test_the_head_of_a_stream_says_it_runs_and_its_end_what_it_cost(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        listener = await customer.ask()
        await listener.listen(wall_of(customer, Model(tokens=7)))

        head = parallel.read_outcome(listener.header_receipt())
        last = parallel.read_outcome(listener.last_receipt())
        assert head is not None
        assert last is not None
        assert (head.fate, head.charged) == ("running", 0)
        assert (last.fate, last.charged) == ("charged", 7 * PER_TOKEN)


async def test_who_reads_headers_alone_is_told_what_is_reserved(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=False) as customer:
        listener = await customer.ask()
        await listener.listen(wall_of(customer, Model(tokens=7)))

        extra = listener.header_receipt().extra
        assert extra is not None
        assert extra.charged_amount == MAXIMUM
        assert {event.event for event in listener.events} == {"message"}


@pytest.mark.parametrize("raises", [True, False])
async def test_p10_a_disconnect_at_token_k_bills_k(
    agentpay_shared_chain: LocalChain, raises: bool
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        charged = 0
        for k in range(40):
            listener = await customer.ask(leaves_after=k, raises=raises)
            with contextlib.suppress(OSError):
                await listener.listen(wall_of(customer, Model(tokens=60)))

            left = await customer.charged() - charged
            charged += left
            assert left == PER_TOKEN * listener.tokens
            assert k <= listener.tokens <= (k if raises else k + 1)
            assert not (await customer.ledger()).running


async def test_p10_a_handler_that_fails_midway_bills_what_left(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        charged = 0
        for k in range(12):
            listener = await customer.ask()
            with pytest.raises(RuntimeError, match="the model failed"):
                await listener.listen(wall_of(customer, Model(raises_at=k, tokens=60)))

            assert await customer.charged() - charged == k * PER_TOKEN
            assert not listener.whole
            charged += k * PER_TOKEN


async def test_a_stream_ends_in_good_order_at_its_maximum(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        listener, model = await customer.ask(), Model(tokens=150)
        await listener.listen(wall_of(customer, model))

        assert isinstance(model.ended, StreamExhausted)
        assert (listener.tokens, listener.whole) == (100, True)
        assert listener.last_receipt().success
        assert await customer.charged() == MAXIMUM


async def test_p10_usage_that_nobody_counted_is_not_served(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        listener = await customer.ask()
        with pytest.raises(ConfigurationError, match="before anything was counted"):
            await listener.listen(wall_of(customer, Model(charges=False)))

        assert (listener.pieces, listener.whole) == ([], False)
        assert await customer.charged() == 0


async def test_at_every_token_at_most_an_increment_is_charged_ahead(
    agentpay_shared_chain: LocalChain,
) -> None:
    """What a crash at this moment would leave charged: recorded, and little."""
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        listener = await customer.ask()
        seen: list[int] = []

        async def look(n: int) -> None:
            seen.append(await customer.charged() - n * PER_TOKEN)

        await listener.listen(wall_of(customer, Model(tokens=60, before=look)))

        assert len(seen) == 60
        assert all(0 <= ahead <= INCREMENT for ahead in seen)


async def test_p10_a_store_that_fails_stops_a_stream_and_closes_it_later(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        await (await customer.ask()).listen(wall_of(customer, Model(tokens=0)))
        store = unreliable(customer.payee)

        async def break_at(n: int) -> None:
            store.fails = n >= 7

        model, listener = Model(tokens=60, before=break_at), await customer.ask()
        await listener.listen(wall_of(customer, model))
        store.fails = False

        paid_ahead = 10
        assert (listener.tokens, listener.whole) == (paid_ahead, False)

        async def is_closed() -> bool:
            return not (await customer.ledger()).running

        await eventually(is_closed)
        assert await customer.charged() == paid_ahead * PER_TOKEN


async def test_a_stream_stops_once_its_payer_takes_the_money_back(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        listener = await customer.ask()

        async def leave(n: int) -> None:
            if n == 12:
                await see_withdrawal(customer)

        model = Model(tokens=60, before=leave)
        await listener.listen(wall_of(customer, model))

        assert isinstance(model.ended, StreamExhausted)
        assert listener.tokens == 15  # the slice that was charged before
        assert await customer.charged() == 15 * PER_TOKEN


async def see_withdrawal(customer: Customer) -> None:
    def decide(record: PayeeRecord | None) -> PayeeStep[None]:
        assert record is not None
        ledger = record.ledger
        seen = ChainSeen(
            balance=ledger.balance,
            claimed=ledger.claimed,
            pending_withdrawal=ledger.balance,
        )
        after = replace(record, ledger=apply(ledger, seen).channel)
        return PayeeStep(record=after, answer=None)

    channel = channel_id(customer.config, customer.payer.asset.chain)
    await customer.payee._running.store.payee.update(channel, decide)


async def test_what_is_paid_whole_is_counted_to_its_maximum(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        terms = terms_of(customer.payee, ROUTES["/exact"], resource="GET /exact")
        listener = Listener(await customer.payer.transfer(terms), path="/exact")
        model = Model(tokens=150)
        await listener.listen(wall_of(customer, model))

        assert isinstance(model.ended, StreamExhausted)
        assert (listener.tokens, listener.whole) == (100, True)
        assert listener.header_receipt().success


async def test_a_metered_answer_that_does_not_stream_says_its_cost_in_its_head(
    agentpay_shared_chain: LocalChain,
) -> None:
    async def counts(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        meter = scope["agentpay"].meter
        await meter.charge(tokens=3)
        await meter.charge(tokens=4)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
        with pytest.raises(ConfigurationError, match="too late"):
            await meter.charge(tokens=1)

    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        listener = await customer.ask("/whole")
        wall = Paywall(counts, payee=customer.payee, routes=ROUTES)
        await listener.listen(wall)

        outcome = parallel.read_outcome(listener.header_receipt())
        assert outcome is not None
        assert (outcome.fate, outcome.charged) == ("charged", 7 * PER_TOKEN)


@pytest.mark.parametrize("cut", [1, 3, 7, 14])
async def test_the_receipt_of_a_stream_stands_between_its_events(
    agentpay_shared_chain: LocalChain, cut: int
) -> None:
    """An application may send half an event, and forget the blank line at the end."""
    whole = b"".join(b"data: token %d\r\n\r\n" % n for n in range(5)) + b"data: [DONE]"
    parts = [whole[at : at + cut] for at in range(0, len(whole), cut)]
    model = Model(
        tokens=len(parts),
        piece=lambda n: parts[n],
        headers=[(b"content-length", b"%d" % len(whole))],
    )
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        listener = await customer.ask()
        await listener.listen(wall_of(customer, model))

        said = [e.data for e in listener.events if e.event == "message"]
        assert said == [*(f"token {n}" for n in range(5)), "[DONE]"]
        assert listener.last_receipt().success
        assert b"content-length" not in dict(listener.head["headers"])


async def test_what_is_no_stream_of_events_is_passed_on_as_it_is(
    agentpay_shared_chain: LocalChain,
) -> None:
    model = Model(tokens=9, piece=lambda n: b"x", kind=b"text/plain")
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        listener = await customer.ask()
        await listener.listen(wall_of(customer, model))

        assert (listener.pieces, listener.whole) == ([b"x"] * 9, True)
        assert await customer.charged() == 9 * PER_TOKEN


async def test_a_client_that_left_is_noticed_by_who_charges(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        listener = await customer.ask(leaves_after=3, raises=False)
        model = Model(tokens=60)
        await listener.listen(wall_of(customer, model))

        assert isinstance(model.ended, StreamAbandoned)


async def test_a_stream_that_is_asked_for_again_is_not_served_twice(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_customer(agentpay_shared_chain, tagged=True) as customer:
        listener = await customer.ask()
        model = Model(tokens=9)
        await listener.listen(wall_of(customer, model))
        again = Listener(listener.header)
        await again.listen(wall_of(customer, model))

        assert again.head["status"] == 409
        assert model.made == 9


@pytest.mark.parametrize(
    "wrong",
    [
        {"metered": False},
        {"tariff": None},
        {"schemes": ("batch-settlement", "upto")},
        {"schemes": ("upto",), "order": Order.RESERVE},
    ],
)
def test_a_stream_needs_a_tariff_and_a_way_to_be_paid(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        route(**wrong)


@pytest.mark.parametrize("increment", [0, MAXIMUM + 1, "$x"])
async def test_an_increment_is_a_part_of_the_price(
    agentpay_shared_chain: LocalChain, increment: Any
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        streaming = Streaming(increment=increment)
        with pytest.raises(ConfigurationError, match="increment"):
            Paywall(Model(), payee=payee, routes={"/s": route(streaming=streaming)})


@pytest.mark.parametrize("scheme", ["upto", "batch-settlement"])
async def test_f1_a_stream_that_is_lost_before_it_begins_is_refused_by_its_payee(
    agentpay_shared_chain: LocalChain, scheme: str
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        lost = route(schemes=(scheme,), order=Order.SERVE_FIRST)
        wall = Paywall(loses(payee), payee=payee, routes={"/stream": lost})
        if scheme == "upto":
            payer = await a_payer(chain, payee)
            header = await payer.permit2(terms_of(payee, lost), scheme=scheme)
        else:
            payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
            terms = terms_of(payee, lost)
            header = await payer.funding(payer.config(), 10 * MAXIMUM, MAXIMUM, terms)
        listener = Listener(header)
        await listener.listen(wall)

    assert listener.head["status"] == 503
    assert not listener.header_receipt().success


def loses(payee: Payee) -> App:
    """An application whose payments are another's by the time it charges."""

    async def lose(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        store: Any = payee._running.store.payee
        for key, known in store._payments.items():
            store._payments[key] = replace(known, owner="another")
        for channel, record in store._records.items():
            running = [replace(one, owner="another") for one in record.ledger.running]
            ledger = replace(record.ledger, running=tuple(running))
            store._records[channel] = replace(record, ledger=ledger)
        await scope["agentpay"].meter.charge(tokens=1)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    return lose
