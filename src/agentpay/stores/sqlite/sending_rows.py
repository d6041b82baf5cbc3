"""
Transactions in flight as rows: written before they are sent, read after a restart.

Signed bytes are kept whole, one behind the other for each fee that was offered.
"""

import sqlite3
from typing import Final

from agentpay.records import SentTransaction
from agentpay.stores.sqlite.rows import Row, integer, text, to_address
from agentpay.stores.sqlite.tables import Change, Cut, Put, Table, select
from agentpay.types import Address, ChainId

_SENT: Final = Table(
    "sent_transactions",
    "chain, account, nonce, owner, raws, what, deadline",
    keys=4,
)
_LIST: Final = select(_SENT.columns, _SENT, by=2, order="nonce, owner")
_LENGTH_BYTES: Final = 4


def save_sent(sent: SentTransaction, owner: str) -> list[Change]:
    row = (
        integer(sent.chain),
        sent.account.to_bytes(),
        integer(sent.nonce),
        owner,
        pack(sent.raws),
        text(sent.what),
        integer(sent.deadline),
    )
    return [Put(_SENT, row)]


def forget_sent(
    chain: ChainId, account: Address, nonce: int, owner: str
) -> list[Change]:
    return [Cut(_SENT, (integer(chain), account.to_bytes(), integer(nonce), owner))]


def load_sent(
    connection: sqlite3.Connection, chain: ChainId, account: Address
) -> list[tuple[str, SentTransaction]]:
    """
    All of an account, with their owners.

    Raises:
        ValueError: A row is not one that we wrote.
    """
    rows = connection.execute(_LIST, (chain, account.to_bytes())).fetchall()
    return [(row[3], _to_sent(row)) for row in rows]


def _to_sent(row: Row) -> SentTransaction:
    chain, account, nonce, _, raws, what, deadline = row
    return SentTransaction(
        chain=ChainId(chain),
        account=to_address(account),
        nonce=nonce,
        raws=unpack(raws),
        what=what,
        deadline=deadline,
    )


def pack(raws: tuple[bytes, ...]) -> bytes:
    """Each behind its length."""
    return b"".join(len(raw).to_bytes(_LENGTH_BYTES, "big") + raw for raw in raws)


def unpack(column: bytes) -> tuple[bytes, ...]:
    """
    Raises:
        ValueError: Not what `pack` makes.
    """
    raws: list[bytes] = []
    while column:
        end = _LENGTH_BYTES + int.from_bytes(column[:_LENGTH_BYTES], "big")
        if len(column) < max(end, _LENGTH_BYTES + 1):
            raise ValueError("a signed transaction is cut short")
        raws.append(column[_LENGTH_BYTES:end])
        column = column[end:]
    if not raws:
        raise ValueError("a transaction was sent without signed bytes")
    return tuple(raws)
