"""
The tables in a PostgreSQL database: how they are made, and brought up to date.

They live in a schema of their own. Who uses them holds a lock on that schema together
with all others; who changes them must hold it alone.
"""

import asyncio
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from agentpay.errors import ConfigurationError, StoreInUse, StoreNewer
from agentpay.stores.postgres.connection import Connection

_POLL_SECONDS: Final = 0.05
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)

# `version` counts the writes of a row that is decided on; `position` is the order in
# which rows were put. Text is escaped (see `connection`), held vouchers are packed.
VERSION_1: Final = (
    """CREATE TABLE owners (
        owner TEXT PRIMARY KEY, batch BIGINT NOT NULL,
        seen_at TIMESTAMPTZ NOT NULL DEFAULT now())""",
    """CREATE TABLE payee_channels (
        channel BYTEA PRIMARY KEY, version BIGINT NOT NULL, chain BIGINT NOT NULL,
        payer BYTEA NOT NULL, payer_authorizer BYTEA NOT NULL,
        receiver BYTEA NOT NULL, receiver_authorizer BYTEA NOT NULL,
        token BYTEA NOT NULL, withdraw_delay BIGINT NOT NULL, salt BYTEA NOT NULL,
        escrow BYTEA, tagged BOOLEAN NOT NULL, "window" BIGINT NOT NULL,
        in_flight_max BIGINT NOT NULL, status TEXT NOT NULL,
        balance NUMERIC(78,0) NOT NULL, claimed NUMERIC(78,0) NOT NULL,
        pending_withdrawal NUMERIC(78,0) NOT NULL, charged NUMERIC(78,0) NOT NULL,
        highest NUMERIC(78,0) NOT NULL, floor NUMERIC(78,0) NOT NULL,
        closing_voucher NUMERIC(78,0), held BYTEA NOT NULL,
        refund_nonce NUMERIC(78,0) NOT NULL, last_voucher_at BIGINT NOT NULL,
        chain_seen_at BIGINT NOT NULL, unclaimed NUMERIC(78,0) NOT NULL)""",
    """CREATE INDEX payee_channels_claimable
        ON payee_channels (unclaimed DESC, channel)
        WHERE escrow IS NULL AND unclaimed > 0""",
    """CREATE INDEX payee_sessions_claimable
        ON payee_channels (unclaimed DESC, channel)
        WHERE escrow IS NOT NULL AND unclaimed > 0""",
    """CREATE INDEX payee_channels_closing
        ON payee_channels (last_voucher_at, channel)
        WHERE escrow IS NULL AND status = 'closing'""",
    """CREATE INDEX payee_sessions_closing
        ON payee_channels (last_voucher_at, channel)
        WHERE escrow IS NOT NULL AND (status = 'closing' OR status = 'open'
            AND pending_withdrawal > 0 AND charged > claimed)""",
    """CREATE TABLE payee_used (
        channel BYTEA, cumulative NUMERIC(78,0), fate TEXT NOT NULL,
        charged NUMERIC(78,0) NOT NULL, PRIMARY KEY (channel, cumulative))""",
    """CREATE TABLE payee_running (
        position BIGINT GENERATED ALWAYS AS IDENTITY, channel BYTEA,
        cumulative NUMERIC(78,0), maximum NUMERIC(78,0) NOT NULL,
        charged NUMERIC(78,0) NOT NULL, prepaid BOOLEAN NOT NULL, owner TEXT NOT NULL,
        resource TEXT NOT NULL, answered BOOLEAN NOT NULL,
        PRIMARY KEY (channel, cumulative))""",
    """CREATE TABLE payments (
        id TEXT PRIMARY KEY, version BIGINT NOT NULL, payer BYTEA NOT NULL,
        amount NUMERIC(78,0) NOT NULL, resource TEXT NOT NULL, owner TEXT NOT NULL,
        started_at BIGINT NOT NULL, status TEXT NOT NULL,
        transaction_hash TEXT NOT NULL, charged NUMERIC(78,0) NOT NULL,
        good_until BIGINT NOT NULL, request TEXT NOT NULL)""",
    """CREATE INDEX payments_served ON payments (started_at, id)
        WHERE status = 'served'""",
    """CREATE INDEX payments_by_age ON payments (good_until)
        WHERE status IN ('delivered', 'failed') AND good_until > 0""",
    """CREATE TABLE marks (
        name TEXT PRIMARY KEY, version BIGINT NOT NULL, until BIGINT NOT NULL)""",
    "CREATE INDEX marks_by_age ON marks (until)",
    """CREATE TABLE cursors (
        name TEXT PRIMARY KEY, version BIGINT NOT NULL, position BIGINT NOT NULL)""",
    """CREATE TABLE answers (
        position BIGINT GENERATED ALWAYS AS IDENTITY, key TEXT PRIMARY KEY,
        request BYTEA NOT NULL, kept_until BIGINT NOT NULL, content BYTEA NOT NULL,
        status BIGINT NOT NULL, headers BYTEA NOT NULL, size BIGINT NOT NULL,
        body BYTEA NOT NULL)""",
    "CREATE INDEX answers_by_age ON answers (kept_until, position) INCLUDE (size)",
    """CREATE TABLE payer_accounts (
        account BYTEA PRIMARY KEY, version BIGINT NOT NULL)""",
    """CREATE TABLE payer_channels (
        account BYTEA, channel BYTEA, chain BIGINT NOT NULL,
        payer BYTEA NOT NULL, payer_authorizer BYTEA NOT NULL,
        receiver BYTEA NOT NULL, receiver_authorizer BYTEA NOT NULL,
        token BYTEA NOT NULL, withdraw_delay BIGINT NOT NULL, salt BYTEA NOT NULL,
        escrow BYTEA, origin TEXT NOT NULL, number BIGINT NOT NULL,
        decimals BIGINT NOT NULL, url TEXT NOT NULL, offer TEXT NOT NULL,
        tagged BOOLEAN NOT NULL, "window" BIGINT NOT NULL,
        in_flight_max BIGINT NOT NULL, headroom NUMERIC(78,0) NOT NULL,
        status TEXT NOT NULL, balance NUMERIC(78,0) NOT NULL,
        spent NUMERIC(78,0) NOT NULL, acknowledged NUMERIC(78,0) NOT NULL,
        deposit_amount NUMERIC(78,0), deposit_salt BYTEA, deposit_valid_before BIGINT,
        PRIMARY KEY (account, channel))""",
    """CREATE TABLE payer_signed (
        account BYTEA, channel BYTEA, cumulative NUMERIC(78,0),
        PRIMARY KEY (account, channel, cumulative))""",
    """CREATE TABLE payer_tickets (
        position BIGINT GENERATED ALWAYS AS IDENTITY, account BYTEA, channel BYTEA,
        cumulative NUMERIC(78,0), maximum NUMERIC(78,0) NOT NULL,
        arrived BOOLEAN NOT NULL, PRIMARY KEY (account, channel, cumulative))""",
    """CREATE TABLE budget_spent (
        position BIGINT GENERATED ALWAYS AS IDENTITY, account BYTEA, host TEXT,
        amount NUMERIC(78,0) NOT NULL, PRIMARY KEY (account, host))""",
    """CREATE TABLE budget_holds (
        position BIGINT GENERATED ALWAYS AS IDENTITY, account BYTEA, id TEXT,
        host TEXT NOT NULL, amount NUMERIC(78,0) NOT NULL,
        valid_before BIGINT NOT NULL, detail TEXT NOT NULL,
        PRIMARY KEY (account, id))""",
    """CREATE TABLE budget_lapses (
        position BIGINT GENERATED ALWAYS AS IDENTITY, account BYTEA, host TEXT,
        count BIGINT NOT NULL, last BIGINT NOT NULL, PRIMARY KEY (account, host))""",
    """CREATE TABLE sent_transactions (
        chain BIGINT, account BYTEA, nonce BIGINT, owner TEXT, raws BYTEA NOT NULL,
        what TEXT NOT NULL, deadline BIGINT NOT NULL,
        PRIMARY KEY (chain, account, nonce, owner))""",
)

VERSION_2: Final = (
    """ALTER TABLE payer_tickets
        ADD COLUMN delivered NUMERIC(78,0) NOT NULL DEFAULT 0""",
)

VERSION_3: Final = (
    "CREATE INDEX payments_answering ON payments (owner) WHERE status = 'answering'",
    # Looked at again by whoever begins to follow the chain.
    "CREATE INDEX payee_channels_seen ON payee_channels (chain_seen_at)",
)

# When a payer began to withdraw. Of one that did before this was kept, it is not known
# until its channel is looked at again: 1 says that it did.
VERSION_4: Final = (
    """ALTER TABLE payee_channels
        ADD COLUMN withdrawal_started BIGINT NOT NULL DEFAULT 0""",
    """UPDATE payee_channels SET withdrawal_started = 1
        WHERE escrow IS NULL AND pending_withdrawal > 0""",
)

# A part of a channel that is given back, once its number is kept.
VERSION_5: Final = (
    """ALTER TABLE payee_channels
        ADD COLUMN part_amount NUMERIC(78,0), ADD COLUMN part_nonce NUMERIC(78,0),
        ADD COLUMN part_refunded NUMERIC(78,0),
        ADD COLUMN part_transaction TEXT NOT NULL DEFAULT ''""",
)

VERSION_6: Final = (
    "ALTER TABLE payee_channels ADD COLUMN owing_since BIGINT NOT NULL DEFAULT 0",
    # Nobody knows of the first any more: the last, until all is claimed once.
    "UPDATE payee_channels SET owing_since = last_voucher_at WHERE charged > claimed",
)

# What was held before names no request, and is carried on by none.
VERSION_7: Final = (
    "ALTER TABLE budget_holds ADD COLUMN request TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE budget_holds ADD COLUMN presented_until BIGINT NOT NULL DEFAULT 0",
)

MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    VERSION_1,
    VERSION_2,
    VERSION_3,
    VERSION_4,
    VERSION_5,
    VERSION_6,
    VERSION_7,
)
"""What leads from each version to the next. Only ever appended to."""


def check_name(name: str) -> str:
    """
    Raises:
        ConfigurationError: No plain name of a schema.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"the schema {name!r} is none: use small letters, digits and underscores"
        )
    return name


def key_of(name: str) -> int:
    """The number by which PostgreSQL knows an advisory lock of ours."""
    hashed = sha256(f"agentpay {name}".encode()).digest()
    return int.from_bytes(hashed[:8], "big", signed=True)


async def bring_up(
    connection: Connection,
    name: str,
    *,
    wait_seconds: float,
    migrations: Sequence[Sequence[str]] = MIGRATIONS,
) -> None:
    """
    Hold the schema with the others, and see that its tables are of our version.

    Raises:
        StoreNewer: A newer version of this library made them.
        StoreInUse: They are of an older one, which is running.
    """
    key = key_of(f"schema {name}")
    deadline = asyncio.get_running_loop().time() + wait_seconds
    while True:
        await connection.execute("SELECT pg_advisory_lock_shared($1)", key)
        version = await _version(connection)
        if version == len(migrations):
            return
        await connection.execute("SELECT pg_advisory_unlock_shared($1)", key)
        if version > len(migrations):
            raise StoreNewer(
                f"schema {name} has version {version}, this library knows up to"
                f" {len(migrations)}: upgrade agentpay"
            )
        if await connection.fetchval("SELECT pg_try_advisory_lock($1)", key):
            try:
                await _migrate(connection, name, migrations)
            finally:
                await connection.execute("SELECT pg_advisory_unlock($1)", key)
        elif asyncio.get_running_loop().time() > deadline:
            raise StoreInUse(
                f"schema {name} has version {version} and is used by processes that"
                f" know no later one: stop them, and version {len(migrations)} is made"
            )
        else:
            await asyncio.sleep(_POLL_SECONDS)


async def _version(connection: Connection) -> int:
    if await connection.fetchval("SELECT to_regclass('schema_version')") is None:
        return 0
    version: int = await connection.fetchval("SELECT version FROM schema_version")
    return version


async def _migrate(
    connection: Connection, name: str, migrations: Sequence[Sequence[str]]
) -> None:
    """Bring the tables to the newest version, or leave them as they are."""
    await connection.execute("BEGIN")
    try:
        version = await _version(connection)
        if version == 0:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")
            await connection.execute(
                "CREATE TABLE schema_version (version BIGINT NOT NULL)"
            )
            await connection.execute("INSERT INTO schema_version VALUES (0)")
        for statements in migrations[version:]:
            for statement in statements:
                await connection.execute(statement)
        await connection.execute(
            "UPDATE schema_version SET version = $1", len(migrations)
        )
        await connection.execute("COMMIT")
    except BaseException:
        await connection.execute("ROLLBACK")
        raise
