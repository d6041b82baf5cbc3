"""
The database file: how it is made, recognised, checked and brought up to date.

It is made aside and renamed, so a file that exists is a whole one or a damaged one, and
an empty file is never taken for a new database: that would forget which vouchers have
been used.
"""

import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agentpay.errors import StoreCorrupt, StoreNewer, StoreUnavailable

APPLICATION_ID: Final = 0x61675031  # "agP1"
CHECKED_BYTES_MAX: Final = 64 * 2**20
"""Larger files are not read through at opening."""

# Amounts are 32 bytes, big-endian, so that they sort; hashes and addresses are raw.
VERSION_1: Final = (
    """CREATE TABLE payee_channels (
        channel BLOB PRIMARY KEY, chain INTEGER NOT NULL,
        payer BLOB NOT NULL, payer_authorizer BLOB NOT NULL,
        receiver BLOB NOT NULL, receiver_authorizer BLOB NOT NULL,
        token BLOB NOT NULL, withdraw_delay INTEGER NOT NULL, salt BLOB NOT NULL,
        tagged INTEGER NOT NULL, window INTEGER NOT NULL,
        in_flight_max INTEGER NOT NULL, status TEXT NOT NULL,
        balance BLOB NOT NULL, claimed BLOB NOT NULL,
        pending_withdrawal BLOB NOT NULL, charged BLOB NOT NULL,
        highest BLOB NOT NULL, floor BLOB NOT NULL, closing_voucher BLOB,
        held BLOB NOT NULL, refund_nonce BLOB NOT NULL,
        last_voucher_at INTEGER NOT NULL, chain_seen_at INTEGER NOT NULL,
        unclaimed BLOB NOT NULL)""",
    """CREATE INDEX payee_channels_claimable
        ON payee_channels (unclaimed DESC, channel)
        WHERE unclaimed > zeroblob(32)""",
    """CREATE INDEX payee_channels_closing
        ON payee_channels (last_voucher_at, channel) WHERE status = 'closing'""",
    """CREATE TABLE payee_used (
        channel BLOB, cumulative BLOB, fate TEXT NOT NULL, charged BLOB NOT NULL,
        PRIMARY KEY (channel, cumulative)) WITHOUT ROWID""",
    """CREATE TABLE payee_running (
        position INTEGER PRIMARY KEY, channel BLOB NOT NULL, cumulative BLOB NOT NULL,
        maximum BLOB NOT NULL, charged BLOB NOT NULL, prepaid INTEGER NOT NULL,
        owner TEXT NOT NULL, resource TEXT NOT NULL, answered INTEGER NOT NULL,
        UNIQUE (channel, cumulative))""",
    """CREATE TABLE payments (
        id TEXT PRIMARY KEY, payer BLOB NOT NULL, amount BLOB NOT NULL,
        resource TEXT NOT NULL, owner TEXT NOT NULL, started_at INTEGER NOT NULL,
        status TEXT NOT NULL, transaction_hash TEXT NOT NULL)""",
    """CREATE TABLE cursors (name TEXT PRIMARY KEY, position INTEGER NOT NULL)""",
    """CREATE TABLE payer_channels (
        account BLOB, channel BLOB, chain INTEGER NOT NULL,
        payer BLOB NOT NULL, payer_authorizer BLOB NOT NULL,
        receiver BLOB NOT NULL, receiver_authorizer BLOB NOT NULL,
        token BLOB NOT NULL, withdraw_delay INTEGER NOT NULL, salt BLOB NOT NULL,
        origin TEXT NOT NULL, number INTEGER NOT NULL, decimals INTEGER NOT NULL,
        url TEXT NOT NULL, offer TEXT NOT NULL,
        tagged INTEGER NOT NULL, window INTEGER NOT NULL,
        in_flight_max INTEGER NOT NULL, headroom BLOB NOT NULL, status TEXT NOT NULL,
        balance BLOB NOT NULL, spent BLOB NOT NULL, acknowledged BLOB NOT NULL,
        deposit_amount BLOB, deposit_salt BLOB, deposit_valid_before INTEGER,
        PRIMARY KEY (account, channel))""",
    """CREATE TABLE payer_signed (
        account BLOB, channel BLOB, cumulative BLOB,
        PRIMARY KEY (account, channel, cumulative)) WITHOUT ROWID""",
    """CREATE TABLE payer_tickets (
        position INTEGER PRIMARY KEY, account BLOB NOT NULL, channel BLOB NOT NULL,
        cumulative BLOB NOT NULL, maximum BLOB NOT NULL, arrived INTEGER NOT NULL,
        UNIQUE (account, channel, cumulative))""",
    """CREATE TABLE budget_spent (
        position INTEGER PRIMARY KEY, account BLOB NOT NULL, host TEXT NOT NULL,
        amount BLOB NOT NULL, UNIQUE (account, host))""",
    """CREATE TABLE budget_holds (
        position INTEGER PRIMARY KEY, account BLOB NOT NULL, id TEXT NOT NULL,
        host TEXT NOT NULL, amount BLOB NOT NULL, valid_before INTEGER NOT NULL,
        detail TEXT NOT NULL, UNIQUE (account, id))""",
)

VERSION_2: Final = (
    f"ALTER TABLE payments ADD COLUMN charged BLOB NOT NULL DEFAULT x'{'00' * 32}'",
    # Until now every transfer that was settled moved all of its amount.
    "UPDATE payments SET charged = amount WHERE status IN ('settled', 'delivered')",
)

VERSION_3: Final = (
    """CREATE TABLE budget_lapses (
        position INTEGER PRIMARY KEY, account BLOB NOT NULL, host TEXT NOT NULL,
        count INTEGER NOT NULL, last INTEGER NOT NULL, UNIQUE (account, host))""",
)

VERSION_4: Final = (
    """CREATE TABLE answers (
        key TEXT PRIMARY KEY, request BLOB NOT NULL, kept_until INTEGER NOT NULL,
        content BLOB NOT NULL, status INTEGER NOT NULL, headers BLOB NOT NULL,
        size INTEGER NOT NULL, body BLOB NOT NULL)""",
    "CREATE INDEX answers_by_age ON answers (kept_until, size)",
)

VERSION_5: Final = (
    "CREATE TABLE marks (name TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX marks_by_age ON marks (until)",
)

# A session of MPP's has an escrow contract. It is kept beside x402's channels, and
# neither is ever listed as the other.
VERSION_6: Final = (
    "ALTER TABLE payee_channels ADD COLUMN escrow BLOB",
    "ALTER TABLE payer_channels ADD COLUMN escrow BLOB",
    "DROP INDEX payee_channels_claimable",
    "DROP INDEX payee_channels_closing",
    """CREATE INDEX payee_channels_claimable
        ON payee_channels (unclaimed DESC, channel)
        WHERE escrow IS NULL AND unclaimed > zeroblob(32)""",
    """CREATE INDEX payee_sessions_claimable
        ON payee_channels (unclaimed DESC, channel)
        WHERE escrow IS NOT NULL AND unclaimed > zeroblob(32)""",
    """CREATE INDEX payee_channels_closing
        ON payee_channels (last_voucher_at, channel)
        WHERE escrow IS NULL AND status = 'closing'""",
    """CREATE INDEX payee_sessions_closing
        ON payee_channels (last_voucher_at, channel)
        WHERE escrow IS NOT NULL AND (status = 'closing' OR status = 'open'
            AND pending_withdrawal > zeroblob(32) AND charged > claimed)""",
)

VERSION_7: Final = (
    """CREATE TABLE sent_transactions (
        chain INTEGER, account BLOB, nonce INTEGER, owner TEXT, raws BLOB NOT NULL,
        what TEXT NOT NULL, deadline INTEGER NOT NULL,
        PRIMARY KEY (chain, account, nonce, owner)) WITHOUT ROWID""",
    "ALTER TABLE payments ADD COLUMN good_until INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE payments ADD COLUMN request TEXT NOT NULL DEFAULT ''",
    """CREATE INDEX payments_served ON payments (started_at, id)
        WHERE status = 'served'""",
    """CREATE INDEX payments_by_age ON payments (good_until)
        WHERE status IN ('delivered', 'failed') AND good_until > 0""",
)

VERSION_8: Final = (
    f"""ALTER TABLE payer_tickets
        ADD COLUMN delivered BLOB NOT NULL DEFAULT x'{"00" * 32}'""",
)

VERSION_9: Final = (
    "CREATE INDEX payments_answering ON payments (id) WHERE status = 'answering'",
    # Looked at again by whoever begins to follow the chain.
    "CREATE INDEX payee_channels_seen ON payee_channels (chain_seen_at)",
)

# When a payer began to withdraw. Of one that did before this was kept, it is not known
# until its channel is looked at again: 1 says that it did.
VERSION_10: Final = (
    """ALTER TABLE payee_channels
        ADD COLUMN withdrawal_started INTEGER NOT NULL DEFAULT 0""",
    """UPDATE payee_channels SET withdrawal_started = 1
        WHERE escrow IS NULL AND pending_withdrawal > zeroblob(32)""",
)

# A part of a channel that is given back, once its number is kept.
VERSION_11: Final = (
    "ALTER TABLE payee_channels ADD COLUMN part_amount BLOB",
    "ALTER TABLE payee_channels ADD COLUMN part_nonce BLOB",
    "ALTER TABLE payee_channels ADD COLUMN part_refunded BLOB",
    "ALTER TABLE payee_channels ADD COLUMN part_transaction TEXT NOT NULL DEFAULT ''",
)

VERSION_12: Final = (
    "ALTER TABLE payee_channels ADD COLUMN owing_since INTEGER NOT NULL DEFAULT 0",
    # Nobody knows of the first any more: the last, until all is claimed once.
    "UPDATE payee_channels SET owing_since = last_voucher_at WHERE charged > claimed",
)

# What was held before names no request, and is carried on by none.
VERSION_13: Final = (
    "ALTER TABLE budget_holds ADD COLUMN request TEXT NOT NULL DEFAULT ''",
    """ALTER TABLE budget_holds
        ADD COLUMN presented_until INTEGER NOT NULL DEFAULT 0""",
)

MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    VERSION_1,
    VERSION_2,
    VERSION_3,
    VERSION_4,
    VERSION_5,
    VERSION_6,
    VERSION_7,
    VERSION_8,
    VERSION_9,
    VERSION_10,
    VERSION_11,
    VERSION_12,
    VERSION_13,
)
"""What leads from each version to the next. Only ever appended to."""


def connect(database: Path, *, lock_wait_seconds: float) -> sqlite3.Connection:
    """
    Open an existing file such that a commit survives a power cut.

    Raises:
        sqlite3.Error: It cannot be opened, or is not a database.
    """
    connection = sqlite3.connect(
        f"{database.as_uri()}?mode=rw",
        uri=True,
        timeout=lock_wait_seconds,
        isolation_level=None,
        check_same_thread=False,  # see `DatabaseThread.peek`
        cached_statements=256,
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS needs it; others ignore it
        connection.execute("PRAGMA schema_version").fetchone()  # reads the header
    except BaseException:
        connection.close()
        raise
    return connection


def create_if_missing(database: Path) -> None:
    """
    Raises:
        StoreCorrupt: The file is empty, or missing while its log is there.
        StoreUnavailable: It cannot be made.
    """
    if database.exists():
        if database.stat().st_size == 0:
            raise StoreCorrupt(
                f"{database} is empty; restore it from a backup, or delete it if it"
                " never held a store"
            )
        return
    if Path(f"{database}-wal").exists():
        raise StoreCorrupt(
            f"{database} is missing and its log {database}-wal is there;"
            " put the file back, or delete the log if the store is to start anew"
        )
    try:
        _create(database)
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailable(f"cannot create {database}: {error}") from error


def _create(database: Path) -> None:
    aside = Path(f"{database}.new")
    aside.unlink(missing_ok=True)
    aside.touch(mode=0o600)
    connection = sqlite3.connect(aside, isolation_level=None)
    try:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(connection, MIGRATIONS)
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    aside.replace(database)
    if sys.platform != "win32":  # where a directory cannot be opened
        _sync(database.parent)


def _sync(directory: Path) -> None:
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def check(connection: sqlite3.Connection, database: Path) -> None:
    """
    Raises:
        StoreCorrupt: It is another program's, or damaged.
        StoreNewer: A newer version of this library wrote it.
    """
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise StoreCorrupt(
            f"{database} is a SQLite database, but not one of agentpay; name another"
        )
    check_version(connection, database)
    if database.stat().st_size > CHECKED_BYTES_MAX:
        return
    if (report := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise StoreCorrupt(f"{database} is damaged ({report}): restore it")


def check_version(connection: sqlite3.Connection, database: Path) -> None:
    """
    Raises:
        StoreNewer: A newer version of this library wrote it.
    """
    version = _pragma(connection, "user_version")
    if version > len(MIGRATIONS):
        raise StoreNewer(
            f"{database} has version {version}, this library knows up to"
            f" {len(MIGRATIONS)}: upgrade agentpay, or open a backup made before"
        )


def migrate(
    connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]
) -> None:
    """Bring a database to the newest version; each version is reached or not at all."""
    while _pragma(connection, "user_version") < len(migrations):
        connection.execute("BEGIN IMMEDIATE")
        version = _pragma(connection, "user_version")  # others may do the same
        for statement in migrations[version] if version < len(migrations) else ():
            connection.execute(statement)
        number = min(version + 1, len(migrations))
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value
