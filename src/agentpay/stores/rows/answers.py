"""
Answers to paid requests as rows, which are large and rarely wanted again.
"""

from typing import Final

from agentpay.records import AnswerRecord
from agentpay.stores.rows.columns import Row, integer, text
from agentpay.stores.rows.tables import Change, Cut, Put, Table

ANSWERS: Final = Table(
    "answers",
    "key text, request bytes, kept_until integer, content bytes, status integer,"
    " headers bytes, size integer, body bytes",
    keys=1,
)
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
    return [Put(ANSWERS, row)]


def forget_answer(key: str) -> list[Change]:
    return [Cut(ANSWERS, (text(key),))]


def to_answer(row: Row) -> AnswerRecord:
    """
    Raises:
        ValueError: The row is not one that we wrote.
    """
    key, request, kept_until, content, status, headers, _, body = row
    return AnswerRecord(
        key=key,
        request=request,
        kept_until=kept_until,
        content=content,
        status=status,
        headers=unpack(headers),
        body=body,
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
