"""A payee's records as SQLite reads them back, and how it lists and sweeps them."""

import sqlite3
from itertools import takewhile
from typing import Final

from agentpay.records import AnswerRecord, Owed, PayeeRecord
from agentpay.stores.rows import answers, payee
from agentpay.stores.rows.columns import Row
from agentpay.stores.rows.sending import SENT
from agentpay.stores.sqlite.tables import read, to_blob
from agentpay.types import Address, ChainId, Hash32


def load_channel(connection: sqlite3.Connection, channel: Hash32) -> PayeeRecord | None:
    """
    Raises:
        ValueError: A row is not one that we wrote.
    """
    key = (channel.to_bytes(),)
    for row in read(connection, payee.CHANNELS, key):
        used = read(connection, payee.USED, key, order="cumulative")
        running = read(connection, payee.RUNNING, key, order="position")
        return payee.to_record(row, used, running)
    return None


def list_claimable(
    connection: sqlite3.Connection, *, sessions: bool, at_least: int, limit: int
) -> list[Hash32]:
    # The most first, so that what is too little ends it. Said in SQL too, `at_least`
    # would be looked at in every row: SQLite starts an index at one bound of two.
    rows = connection.execute(
        "SELECT channel, unclaimed FROM payee_channels"  # noqa: S608
        f" WHERE {_kind(sessions)} AND unclaimed > zeroblob(32)"
        " ORDER BY unclaimed DESC, channel LIMIT ?",
        (limit,),
    )
    enough = to_blob(at_least)
    found = takewhile(lambda row: row[1] >= enough, rows)
    return [Hash32.of(channel) for channel, _ in found]


def add_up_owed(connection: sqlite3.Connection, *, limit: int) -> Owed:
    rows = [
        row
        for sessions in (False, True)
        for row in connection.execute(
            "SELECT unclaimed, owing_since FROM payee_channels"  # noqa: S608
            f" WHERE {_kind(sessions)} AND unclaimed > zeroblob(32)"
            " ORDER BY unclaimed DESC, channel LIMIT ?",
            (limit,),
        )
    ]
    return Owed(
        amount=sum(int.from_bytes(unclaimed, "big") for unclaimed, _ in rows),
        channels=len(rows),
        since=min((since for _, since in rows), default=0),
    )


def list_closing(
    connection: sqlite3.Connection, *, sessions: bool, limit: int
) -> list[Hash32]:
    ending = _SESSION_ENDS if sessions else "status = 'closing'"
    rows = connection.execute(
        f"SELECT channel FROM payee_channels WHERE {_kind(sessions)}"  # noqa: S608
        f" AND {ending} ORDER BY last_voucher_at, channel LIMIT ?",
        (limit,),
    )
    return [Hash32.of(channel) for (channel,) in rows]


def list_left_behind(
    connection: sqlite3.Connection, *, owner: str, limit: int
) -> list[Hash32]:
    """Only what runs has a row, so all of them may be read."""
    rows = connection.execute(
        "SELECT DISTINCT channel FROM payee_running WHERE owner != ? LIMIT ?",
        (owner, limit),
    )
    return [Hash32.of(channel) for (channel,) in rows]


def list_seen(
    connection: sqlite3.Connection, *, chain: ChainId, moment: int
) -> list[Hash32]:
    rows = connection.execute(
        "SELECT channel FROM payee_channels WHERE chain = ? AND chain_seen_at >= ?",
        (chain, moment),
    )
    return [Hash32.of(channel) for (channel,) in rows]


# Said as the indexes say it, or they are not used.
_SESSION_ENDS: Final = (
    "(status = 'closing' OR status = 'open'"
    " AND pending_withdrawal > zeroblob(32) AND charged > claimed)"
)


def _kind(sessions: bool) -> str:
    return "escrow IS NOT NULL" if sessions else "escrow IS NULL"


def load_cursor(connection: sqlite3.Connection, name: str) -> int:
    rows = read(connection, payee.CURSORS, (name,))
    return rows[0][1] if rows else 0


def load_mark(connection: sqlite3.Connection, name: str) -> int:
    rows = read(connection, payee.MARKS, (name,))
    return rows[0][1] if rows else 0


def sweep_marks(connection: sqlite3.Connection, *, now: int) -> None:
    connection.execute("DELETE FROM marks WHERE until <= ?", (now,))


def load_answer(connection: sqlite3.Connection, key: str) -> AnswerRecord | None:
    """
    Raises:
        ValueError: The row is not one that we wrote.
    """
    rows = read(connection, answers.ANSWERS, (key,))
    return answers.to_answer(rows[0]) if rows else None


def sweep_answers(
    connection: sqlite3.Connection, *, now: int, bytes_total: int
) -> None:
    """One statement, which is one transaction of its own."""
    connection.execute(
        "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM"
        " (SELECT rowid, kept_until, sum(size) OVER"
        " (ORDER BY kept_until DESC, rowid DESC ROWS UNBOUNDED PRECEDING) AS kept"
        " FROM answers) WHERE kept_until <= ? OR kept > ?)",
        (now, bytes_total),
    )


def load_sent(
    connection: sqlite3.Connection, chain: ChainId, account: Address
) -> list[Row]:
    """All of an account, whoever sent it."""
    return read(connection, SENT, (chain, account.to_bytes()), order="nonce, owner")
