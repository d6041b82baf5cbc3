"""What every payee store promises a transaction sender."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.records import SentTransaction
from agentpay.stores import Store, open_store
from agentpay.stores.rows.sending import pack, unpack
from agentpay.types import Address, ChainId

LOCAL = ChainId(31337)
KEY = Address("0x" + "a1" * 20)
OTHER = Address("0x" + "b2" * 20)


def sent(nonce: int = 0, *raws: bytes) -> SentTransaction:
    return SentTransaction(
        chain=LOCAL,
        account=KEY,
        nonce=nonce,
        raws=raws or (b"\x02first",),
        what="claim 3 channels",
        deadline=1_800_000_000,
    )


async def test_what_was_sent_is_kept_by_chain_and_account(store: Store) -> None:
    await store.payee.keep_sent(sent(1))
    await store.payee.keep_sent(sent(0))
    await store.payee.keep_sent(replace(sent(0), account=OTHER))
    await store.payee.keep_sent(replace(sent(0), chain=ChainId(8453)))

    assert await store.payee.list_sent(LOCAL, KEY) == [sent(0), sent(1)]


async def test_what_is_sent_for_more_takes_the_place_of_what_was(store: Store) -> None:
    await store.payee.keep_sent(sent(4, b"first"))
    await store.payee.keep_sent(sent(4, b"first", b"second"))

    assert await store.payee.list_sent(LOCAL, KEY) == [sent(4, b"first", b"second")]


@pytest.mark.parametrize("durable", [True, False])
async def test_what_is_over_is_forgotten(store: Store, durable: bool) -> None:
    await store.payee.keep_sent(sent(4))
    await store.payee.keep_sent(sent(5))
    await store.payee.forget_sent(LOCAL, KEY, 4, durable=durable)
    await store.payee.forget_sent(LOCAL, KEY, 77, durable=durable)

    assert await store.payee.list_sent(LOCAL, KEY) == [sent(5)]


async def test_f8_the_next_process_gets_what_a_dead_one_left(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/agentpay.db"
    async with await open_store(url) as first:
        await first.payee.keep_sent(sent(0))
        await first.payee.keep_sent(sent(1))
    async with await open_store(url) as second:
        await second.payee.keep_sent(sent(1, b"ours"))
        left = await second.payee.list_sent(LOCAL, KEY)
        await second.payee.forget_sent(LOCAL, KEY, 0, durable=True)
        rest = await second.payee.list_sent(LOCAL, KEY)
    async with await open_store(url) as third:
        last = await third.payee.list_sent(LOCAL, KEY)

    assert left == [sent(0), sent(1, b"ours")]
    assert rest == last == [sent(1, b"ours")]


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_signed_bytes_are_unpacked_as_they_were_packed(raws: list[bytes]) -> None:
    assert unpack(pack(tuple(raws))) == tuple(raws)


@pytest.mark.parametrize("column", [b"", b"\0\0", b"\0\0\0\5ab", b"\0\0\0\0"])
def test_signed_bytes_that_are_cut_are_refused(column: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(column)
