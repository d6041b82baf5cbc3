"""
The end of an answer is told before it is saved: if it is not, it is said once more.

Else what it cost would be due to nobody until a restart, and its channel busy.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentpay.core.payee_channel import PayeeChannel
from agentpay.evm.batch_settlement import channel_id
from agentpay.payee.payee import Payee
from agentpay.payee.sales import Sale
from agentpay.records import AnswerRecord
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from tests.http.session_world import a_world
from tests.http.world import PRICE, a_payee, eventually
from tests.payee.hand import serve, sold
from tests.payee.test_refusals_of_channel_payments import opened


@contextlib.contextmanager
def nothing_ends(database: Path) -> Iterator[None]:
    """Whatever closes a reservation is not saved, nor what is saved with it."""
    other = sqlite3.connect(database, isolation_level=None)
    with contextlib.closing(other):
        other.execute(
            "CREATE TRIGGER fail BEFORE DELETE ON payee_running"
            " BEGIN SELECT RAISE(ABORT, 'planted'); END"
        )
        yield
        other.execute("DROP TRIGGER fail")


async def ledger_of(payee: Payee, channel: Hash32) -> PayeeChannel:
    record = await payee._running.store.payee.read(channel)
    assert record is not None
    return record.ledger


async def it_has_ended(payee: Payee, channel: Hash32) -> None:
    async def ended() -> bool:
        return not (await ledger_of(payee, channel)).running

    await eventually(ended, seconds=10)


def kept(receipt: str) -> AnswerRecord:
    headers = ((b"payment-response", receipt.encode()),)
    return AnswerRecord(
        key="a", request=b"r", kept_until=2**40, status=200, headers=headers
    )


async def serve_whole(sale: Sale) -> None:
    assert sale.whole is not None
    assert isinstance(await sale.whole(kept), AnswerRecord)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("tagged", [True, False])
async def test_p10_an_end_on_a_channel_that_was_not_saved_is_said_again(
    agentpay_shared_chain: LocalChain, tmp_path: Path, tagged: bool, whole: bool
) -> None:
    database = tmp_path / "payee.db"
    async with a_payee(agentpay_shared_chain, store=str(database)) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=tagged)
        channel = channel_id(shop.config, payee.asset.chain)
        header = await shop.payer.voucher(shop.config, 2000, shop.terms)
        sale = sold(await shop.answer(header))
        await payee._running.store.payee.read(channel)
        with nothing_ends(database):
            await (serve_whole(sale) if whole else serve(sale))
            # Waits for what was told, which is lost, and reads what is saved.
            await payee._running.store.payee.claimable(
                sessions=False, at_least=1, limit=1
            )
            assert len((await ledger_of(payee, channel)).running) == 1
        await it_has_ended(payee, channel)
        ledger = await ledger_of(payee, channel)
        told = await payee._running.store.payee.find_answer("a")
        again = await shop.payer.voucher(shop.config, 3000, shop.terms)
        await serve(await shop.answer(again))

    assert (ledger.charged, ledger.due) == (2000, 2000)
    assert (told is not None) == whole


async def test_p10_an_end_on_a_session_that_was_not_saved_is_said_again(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    database = tmp_path / "payee.db"
    async with a_world(agentpay_shared_chain, store=str(database)) as world:
        config = await world.opened()
        with nothing_ends(database):
            assert (await world.buy(config, PRICE)).status_code == 200
            await world.payee._running.store.payee.claimable(
                sessions=True, at_least=1, limit=1
            )
            running = (await ledger_of(world.payee, config.channel)).running
            assert len(running) == 1
        await it_has_ended(world.payee, config.channel)
        ledger = await ledger_of(world.payee, config.channel)

    assert (ledger.charged, ledger.due) == (PRICE, PRICE)
