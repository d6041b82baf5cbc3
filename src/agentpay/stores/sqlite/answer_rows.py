"""
Answers to paid requests as rows: written like the rest, read and swept by query.

They are large and rarely wanted again, so that none of them stays in memory.
"""

import sqlite3
from typing import Final

from agentpay.records import AnswerRecord
from agentpay.stores.sqlite.rows import Row, integer, text
from agentpay.stores.sqlite.tables import Change, Cut, Put, Table, select

_ANSWERS: Final = Table(
    "answers", "key, request, kept_until, content, status, headers, size, body", keys=1
)
_GET: Final = select(_ANSWERS.columns, _ANSWERS, by=1)
_LENGTH_BYTES: Final = 4


def save_answer(answer: AnswerRecord) -> list[Change]:
    row = (
        text(answer.key),
        answer.request,
        integer(answer.kept_until),
        answer.content,
        integer(answer.status),
        pack(answer.headers),
        integer(answer.size),
        answer.body,
    )
    return [Put(_ANSWERS, row)]


def forget_answer(key: str) -> list[Change]:
    return [Cut(_ANSWERS, (text(key),))]


def load_answer(connection: sqlite3.Connection, key: str) -> AnswerRecord | None:
    """
    Raises:
        ValueError: The row is not one that we wrote.
    """
    row: Row | None = connection.execute(_GET, (key,)).fetchone()
    if row is None:
        return None
    _, request, kept_until, content, status, headers, _, body = row
    return AnswerRecord(
        key=key,
        request=request,
        kept_until=kept_until,
        content=content,
        status=status,
        headers=unpack(headers),
        body=body,
    )


def sweep(connection: sqlite3.Connection, *, now: int, bytes_total: int) -> None:
    """One statement, which is one transaction of its own."""
    connection.execute(
        "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM"
        " (SELECT rowid, kept_until, sum(size) OVER"
        " (ORDER BY kept_until DESC, rowid DESC ROWS UNBOUNDED PRECEDING) AS kept"
        " FROM answers) WHERE kept_until <= ? OR kept > ?)",
        (now, bytes_total),
    )


def pack(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Names and values in turn, each behind its length."""
    parts = [part for header in headers for part in header]
    return b"".join(len(p).to_bytes(_LENGTH_BYTES, "big") + p for p in parts)


def unpack(column: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """
    Raises:
        ValueError: Not what `pack` makes.
    """
    parts: list[bytes] = []
    while column:
        end = _LENGTH_BYTES + int.from_bytes(column[:_LENGTH_BYTES], "big")
        if len(column) < max(end, _LENGTH_BYTES):
            raise ValueError("a header is cut short")
        parts.append(column[_LENGTH_BYTES:end])
        column = column[end:]
    if len(parts) % 2:
        raise ValueError("a header has no value")
    return tuple(zip(parts[::2], parts[1::2], strict=True))
