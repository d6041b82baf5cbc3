"""P1: what a crash could undo is not acted on; told by the database's own files."""

import shutil
from pathlib import Path

import pytest

from agentpay.evm.batch_settlement import channel_id
from agentpay.http.paywall import Message, Paywall, Receive, Scope, Send
from agentpay.payee.pricing import Order, Route
from agentpay.records import PayeeRecord
from agentpay.stores import open_store
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from tests.http.world import PRICE, a_payee, answer, open_payee
from tests.payee.hand import HandPayer, fate_of, refused, serve, terms_of


class Crash:
    """Copies a database as a crash would leave it, at one moment."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._copy = database.with_name("after-the-crash.db")

    def happens(self) -> None:
        for end in ("", "-wal"):
            file = Path(f"{self._database}{end}")
            if file.exists():
                shutil.copy(file, f"{self._copy}{end}")

    async def left(self, channel: Hash32) -> PayeeRecord:
        async with await open_store(str(self._copy)) as store:
            record = await store.payee.read(channel)
            assert record is not None
            return record


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


@pytest.mark.parametrize("metered", [False, True])
@pytest.mark.parametrize("when", ["the handler runs", "the receipt leaves"])
@pytest.mark.parametrize("order", [Order.RESERVE, Order.SETTLE_FIRST])
async def test_p1_a_crash_forgets_no_voucher_and_no_charge_that_was_told(
    agentpay_shared_chain: LocalChain,
    tmp_path: Path,
    metered: bool,
    when: str,
    order: Order,
) -> None:
    database = tmp_path / "payee.db"
    crash = Crash(database)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        if when == "the handler runs":
            crash.happens()
        if metered:
            scope["agentpay"].charge(PRICE - 1)
        await answer(send, 200, b"42")

    async def send(message: Message) -> None:
        starts = message["type"] == "http.response.start"
        if starts and when == "the receipt leaves":
            crash.happens()

    async with a_payee(agentpay_shared_chain, store=str(database)) as payee:
        route = Route(price=PRICE, metered=metered, order=order)
        payer = HandPayer(
            await agentpay_shared_chain.funded_wallet(ether=0), payee.settings
        )
        terms = terms_of(payee, route)
        config = payer.config()
        opening = await payer.funding(config, 10_000, PRICE, terms)
        await serve(await payee.answer(opening, terms))
        header = await payer.voucher(config, 2 * PRICE, terms)
        wall = Paywall(application, payee=payee, routes={"/ok": route})
        headers = [(b"payment-signature", header.encode())]
        scope = {"type": "http", "method": "GET", "path": "/ok", "query_string": b""}
        await wall({**scope, "headers": headers}, receive, send)

    ledger = (await crash.left(channel_id(config, payee.asset.chain))).ledger
    told = when == "the receipt leaves"
    assert ledger.find_used(2 * PRICE) is not None
    assert ledger.charged == PRICE + (
        (PRICE - 1 if metered else PRICE) if told or not metered else 0
    )


async def test_p1_a_voucher_buys_nothing_after_a_restart(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    payee = await open_payee(agentpay_shared_chain, store=str(tmp_path / "payee.db"))
    await payee.start()
    payer = HandPayer(
        await agentpay_shared_chain.funded_wallet(ether=0), payee.settings
    )
    config, terms = payer.config(), terms_of(payee)
    opening = await payer.funding(config, 10_000, PRICE, terms)
    await serve(await payee.answer(opening, terms))
    higher = await payer.voucher(config, 5 * PRICE, terms)
    await serve(await payee.answer(higher, terms))
    unused = await payer.voucher(config, 3 * PRICE, terms)
    await payee.stop()
    await payee.start()
    again = [refused(await payee.answer(h, terms)) for h in (opening, higher)]
    await serve(await payee.answer(unused, terms))
    await payee.stop()

    assert [fate_of(refusal) for refusal in again] == [("charged", PRICE)] * 2
