"""
Many open channels in one store, any of which may be asked for next.

One channel is really opened and paid on. What the store wrote of it is put into its
tables again under other ids: for `PAYING` of them those of the same terms with other
salts, so that they can pay, and they lie anywhere among the others. What the ledgers
say is read from the database, by another connection.
"""

import asyncio
import random
import sqlite3
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from agentpay.evm.batch_settlement import (
    CHANNEL_CONFIG_TYPEHASH,
    PARALLEL_TAG,
    ChannelConfig,
    channel_id,
    separator,
    voucher_digest,
)
from agentpay.evm.hashing import address_word, keccak, typed_digest, uint_word
from agentpay.stores.rows.payee import CHANNELS, USED
from agentpay.stores.rows.tables import Table
from agentpay.types import Address, ChainId, Hash32
from bench.goods import PRICE
from bench.purses import Purse, with_payload

Clone = tuple[bytes, bytes]
"""The id of a channel, and the salt that it differs by."""
PAYING: Final = 20_000
"""Many more than any cache of a payee's has room for."""
_SEEN_SECONDS_AGO: Final = 24 * 3600
_POSTGRES: Final = "postgresql://"


def config_of(purse: Purse) -> ChannelConfig:
    """The terms of a purse's channel, as its payments say them."""
    said = purse.form["payload"]["channelConfig"]
    return ChannelConfig(
        payer=Address(said["payer"]),
        payer_authorizer=Address(said["payerAuthorizer"]),
        receiver=Address(said["receiver"]),
        receiver_authorizer=Address(said["receiverAuthorizer"]),
        token=Address(said["token"]),
        withdraw_delay=int(said["withdrawDelay"]),
        salt=Hash32(said["salt"]),
    )


def clones(config: ChannelConfig, chain: ChainId, count: int) -> list[Clone]:
    """So many more channels on the same terms, which differ by their salts."""
    addresses = (
        config.payer,
        config.payer_authorizer,
        config.receiver,
        config.receiver_authorizer,
        config.token,
    )
    head = CHANNEL_CONFIG_TYPEHASH + b"".join(map(address_word, addresses))
    head += uint_word(config.withdraw_delay)
    domain = separator(chain)

    def id_with(salt: bytes) -> bytes:
        return typed_digest(domain, keccak(head + salt))

    if id_with(config.salt.to_bytes()) != channel_id(config, chain).to_bytes():
        raise ValueError("these are not the ids of channels")
    start = PARALLEL_TAG + b"crowd"
    salts = (start + n.to_bytes(32 - len(start), "big") for n in range(count))
    return [(id_with(salt), salt) for salt in salts]


def silent(count: int) -> list[Clone]:
    """So many ids that nobody can pay on: a hash of nothing takes no time."""
    ids = random.Random(count)
    return [(ids.randbytes(32), bytes(32)) for _ in range(count)]


async def fill(url: str, channel: Hash32, clones: Sequence[Clone]) -> None:
    """Put the clones of a channel beside it; nobody else uses the store meanwhile."""
    copies = sorted(clones)
    if url.startswith(_POSTGRES):
        await _fill_postgres(url, channel.to_bytes(), copies)
    else:
        await asyncio.to_thread(_fill_sqlite, url, channel.to_bytes(), copies)


def _copying(table: Table, *, versioned: bool) -> str:
    """All that the store wrote of one channel, once more for each clone."""
    names = [*table.names, *(["version"] if versioned else [])]
    other = {
        "channel": "clones.channel",
        "salt": "clones.salt",
        # What was looked at just now is looked at again by a payee that starts.
        "chain_seen_at": f"one.chain_seen_at - {_SEEN_SECONDS_AGO}",
    }
    chosen = ", ".join(other.get(name, f'one."{name}"') for name in names)
    columns = ", ".join(f'"{name}"' for name in names)
    return (
        f"INSERT INTO {table.name} ({columns}) SELECT {chosen}"  # noqa: S608
        f" FROM clones, {table.name} AS one WHERE one.channel = "
    )


def _fill_sqlite(path: str, channel: bytes, copies: Sequence[Clone]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA cache_size = -262144")
        database.execute("CREATE TEMP TABLE clones (channel BLOB, salt BLOB)")
        database.execute("BEGIN")
        database.executemany("INSERT INTO clones VALUES (?, ?)", copies)
        for table in (CHANNELS, USED):
            database.execute(f"{_copying(table, versioned=False)} ?", (channel,))
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def _fill_postgres(url: str, channel: bytes, copies: Sequence[Clone]) -> None:
    async with _connected(url) as database:
        await database.execute("CREATE TEMP TABLE clones (channel BYTEA, salt BYTEA)")
        await database.copy_records_to_table("clones", records=copies)
        for table, versioned in ((CHANNELS, True), (USED, False)):
            query = f"{_copying(table, versioned=versioned)} $1"
            await database.execute(query, channel)
        await database.execute("ANALYZE payee_channels, payee_used")
        await database.execute("CHECKPOINT")


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Any]:
    settings = {"search_path": "agentpay"}
    connection: Any = await asyncpg.connect(url, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


async def charged(url: str, channels: Iterable[bytes]) -> int:
    """What the database says that these channels were charged, added up."""
    query = "SELECT charged FROM payee_channels WHERE channel "
    if url.startswith(_POSTGRES):
        async with _connected(url) as connection:
            rows = await connection.fetch(f"{query} = ANY($1)", list(channels))
        return sum(int(row[0]) for row in rows)
    with closing(sqlite3.connect(f"file:{url}?mode=ro", uri=True)) as database:
        found = [database.execute(f"{query} = ?", (c,)).fetchone() for c in channels]
    return sum(int.from_bytes(row[0], "big") for row in found)


@dataclass(slots=True, kw_only=True)
class Crowd:
    """The payer of many channels of one shop, and what it has paid on each."""

    url: str
    """The shop's store."""
    purse: Purse
    clones: Sequence[Clone]
    paid: Counter[bytes] = field(default_factory=Counter[bytes])
    _payers: dict[int, deque[Clone]] = field(default_factory=dict[int, deque[Clone]])
    """Who pays, where so many do; the next one is last."""

    async def headers(self, count: int, *, payers: int) -> list[str]:
        """Payments of one after another of so many of the channels, in any order."""
        return [await self._pay(self._draw(payers)) for _ in range(count)]

    def _draw(self, payers: int) -> Clone:
        """Each once, before one pays again."""
        if payers not in self._payers:
            chosen = random.Random(payers).sample(self.clones, k=payers)
            self._payers[payers] = deque(chosen)
        self._payers[payers].rotate(1)
        return self._payers[payers][0]

    async def _pay(self, clone: Clone) -> str:
        channel, salt = clone
        self.paid[channel] += 1
        amount = (self.purse.paid + self.paid[channel]) * PRICE
        chain = self.purse.chain.chain_id
        digest = voucher_digest(Hash32.of(channel), amount, chain)
        signature = await self.purse.wallet.sign_digest(digest, chain=chain)
        terms = self.purse.form["payload"]["channelConfig"]
        return with_payload(
            self.purse.form,
            channelConfig={**terms, "salt": "0x" + salt.hex()},
            voucher={
                "channelId": "0x" + channel.hex(),
                "maxClaimableAmount": str(amount),
                "signature": "0x" + signature.hex(),
            },
        )

    async def check_books(self) -> str:
        """What is wrong with the ledgers of those that have paid; "" if nothing is."""
        wanted = sum(self.purse.paid + paid for paid in self.paid.values()) * PRICE
        found = await charged(self.url, self.paid)
        return "" if found == wanted else f"charged {found}, sold for {wanted}"
