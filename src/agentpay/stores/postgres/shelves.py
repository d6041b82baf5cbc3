"""
What is kept under keys: how records of one kind are locked and read, many at once.

A record is read while its row is locked, so that nobody changes it before our
transaction ends. A key that has no row yet cannot be locked: who writes it first wins,
and the other one decides again (`writing.Outdated`).
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from agentpay.core.budget import Budget
from agentpay.records import PayeeRecord, PayerRecord, PaymentRecord
from agentpay.stores.postgres.connection import Connection
from agentpay.stores.postgres.reading import lock, rows_of, rows_of_each
from agentpay.stores.postgres.schema import key_of
from agentpay.stores.rows import payee, payer
from agentpay.stores.rows.columns import Row
from agentpay.stores.rows.sending import SENT
from agentpay.stores.rows.tables import Columns, Table
from agentpay.types import Address, ChainId, Hash32

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

ACCOUNTS: Final = Table("payer_accounts", "account bytes", keys=1)
"""One row for each account of a payer, whose lock is for all rows of that account."""


@dataclass(slots=True)
class Loaded(Generic[R]):
    """A record as the next step is to see it, and the version that was read."""

    record: R
    version: int = 0


class Shelf(Generic[K, R]):
    """Records of one kind, each in one row that counts its versions."""

    versioned = True

    def __init__(
        self,
        table: Table,
        *,
        key: Callable[[K], Columns],
        read: Callable[[Row], R],
        missing: R,
    ) -> None:
        self.table = table
        self.key = key
        self._read = read
        self._missing = missing

    async def load(
        self, connection: Connection, keys: Iterable[K]
    ) -> dict[K, Loaded[R]]:
        """Lock and read what there is."""
        wanted = {self.key(key): key for key in keys}
        loaded = {key: Loaded(self._missing) for key in wanted.values()}
        for row, version in await lock(connection, self.table, wanted):
            key = wanted[row[: self.table.keys]]
            loaded[key] = Loaded(self._read(row), version)
        return loaded

    def keep(self, key: K, saved: Loaded[R]) -> None:
        """Hear what was saved."""

    def owners(self, record: R) -> frozenset[str]:
        """Who holds something in it, and may be dead."""
        del record
        return frozenset()

    def knowing(self, record: R, living: frozenset[str]) -> R:
        """The record, with which of its owners live."""
        del living
        return record


class ChannelShelf(Shelf[Hash32, PayeeRecord | None]):
    """A payee's channels, whose vouchers are read again only if others wrote them."""

    def __init__(self, *, cached: int) -> None:
        super().__init__(
            payee.CHANNELS,
            key=lambda channel: (channel.to_bytes(),),
            read=lambda row: payee.to_record(row, (), ()),
            missing=None,
        )
        self._cached = cached
        self._cache: OrderedDict[Hash32, Loaded[PayeeRecord | None]] = OrderedDict()

    async def load(
        self, connection: Connection, keys: Iterable[Hash32]
    ) -> dict[Hash32, Loaded[PayeeRecord | None]]:
        wanted = {self.key(key): key for key in keys}
        loaded = {key: Loaded[PayeeRecord | None](None) for key in wanted.values()}
        unknown: list[tuple[Row, int]] = []
        for row, version in await lock(connection, self.table, wanted):
            key = wanted[row[:1]]
            known = self._cache.get(key)
            if known is not None and known.version == version:
                loaded[key] = Loaded(known.record, version)
            else:
                unknown.append((row, version))
        if unknown:
            ids = [row[:1] for row, _ in unknown]
            tables = (payee.USED, "cumulative"), (payee.RUNNING, "position")
            used, running = await rows_of_each(connection, tables, ids)
            for row, version in unknown:
                record = payee.to_record(row, used[row[:1]], running[row[:1]])
                loaded[record.channel] = Loaded(record, version)
                self.keep(record.channel, loaded[record.channel])
        return loaded

    def keep(self, key: Hash32, saved: Loaded[PayeeRecord | None]) -> None:
        self._cache[key] = Loaded(saved.record, saved.version)
        self._cache.move_to_end(key)
        while len(self._cache) > self._cached:
            self._cache.popitem(last=False)

    def owners(self, record: PayeeRecord | None) -> frozenset[str]:
        if record is None:
            return frozenset()
        return frozenset([r.owner for r in record.ledger.running])

    def knowing(
        self, record: PayeeRecord | None, living: frozenset[str]
    ) -> PayeeRecord | None:
        if record is None or record.ledger.living == living:
            return record
        return replace(record, ledger=replace(record.ledger, living=living))


class PaymentShelf(Shelf[str, PaymentRecord | None]):
    """Transfers to a payee."""

    def __init__(self) -> None:
        super().__init__(
            payee.PAYMENTS,
            key=lambda name: (name,),
            read=payee.to_payment,
            missing=None,
        )

    def owners(self, record: PaymentRecord | None) -> frozenset[str]:
        return frozenset() if record is None else frozenset([record.owner])


class NumberShelf(Shelf[str, int]):
    """Numbers by name: marks and cursors. What is missing is 0."""

    def __init__(self, table: Table) -> None:
        super().__init__(
            table, key=lambda name: (name,), read=lambda row: row[1], missing=0
        )


class AccountShelf(Shelf[Address, Budget]):
    """Payers' budgets. Who holds one holds the account's channels too."""

    def __init__(self) -> None:
        super().__init__(
            ACCOUNTS,
            key=lambda account: (account.to_bytes(),),
            read=lambda _: Budget(),
            missing=Budget(),
        )

    async def load(
        self, connection: Connection, keys: Iterable[Address]
    ) -> dict[Address, Loaded[Budget]]:
        loaded = await super().load(connection, keys)
        raw = [self.key(account) for account in loaded]
        tables = [(t, "position") for t in (payer.SPENT, payer.HOLDS, payer.LAPSES)]
        spent, holds, lapses = await rows_of_each(connection, tables, raw)
        for account, found in loaded.items():
            key = self.key(account)
            found.record = payer.to_budget(spent[key], holds[key], lapses[key])
        return loaded


PayerKey = tuple[Address, Hash32]
"""An account and one of its channels."""


class PayerChannelShelf(Shelf[PayerKey, PayerRecord | None]):
    """Payers' channels, locked with their accounts."""

    versioned = False

    def __init__(self) -> None:
        super().__init__(
            payer.CHANNELS,
            key=lambda key: (key[0].to_bytes(), key[1].to_bytes()),
            read=lambda row: payer.to_record(row, (), ()),
            missing=None,
        )

    async def load(
        self, connection: Connection, keys: Iterable[PayerKey]
    ) -> dict[PayerKey, Loaded[PayerRecord | None]]:
        raw = {self.key(key): key for key in keys}
        rows = await rows_of(connection, self.table, list(raw))
        tables = (payer.SIGNED, "cumulative"), (payer.TICKETS, "position")
        signed, tickets = await rows_of_each(connection, tables, list(raw))
        loaded: dict[PayerKey, Loaded[PayerRecord | None]] = {}
        for columns, key in raw.items():
            found = [
                payer.to_record(row, signed[columns], tickets[columns])
                for row in rows[columns]
            ]
            loaded[key] = Loaded(found[0] if found else None)
        return loaded


SentKey = tuple[ChainId, Address]
"""A chain, and an account that pays gas on it."""


class SentShelf(Shelf[SentKey, tuple[Row, ...]]):
    """Transactions in flight, as rows: each owner's own, until it dies."""

    versioned = False

    def __init__(self) -> None:
        super().__init__(
            SENT,
            key=lambda key: (key[0], key[1].to_bytes()),
            read=lambda row: (row,),
            missing=(),
        )

    async def load(
        self, connection: Connection, keys: Iterable[SentKey]
    ) -> dict[SentKey, Loaded[tuple[Row, ...]]]:
        """Whoever takes over what the dead left holds a lock for its account."""
        raw = {self.key(key): key for key in keys}
        for locked in sorted(key_of(f"sent {columns}") for columns in raw):
            await connection.execute("SELECT pg_advisory_xact_lock($1)", locked)
        found = await rows_of(connection, SENT, list(raw), order="nonce, owner")
        return {key: Loaded(tuple(found[columns])) for columns, key in raw.items()}

    def owners(self, record: tuple[Row, ...]) -> frozenset[str]:
        return frozenset([row[3] for row in record])
