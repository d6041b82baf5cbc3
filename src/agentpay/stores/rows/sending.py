"""
Transactions in flight as rows: written before they are sent, read after a restart.

Signed bytes are kept whole, one behind the other for each fee that was offered.
"""

from collections.abc import Iterable
from typing import Final

from agentpay.records import SentTransaction
from agentpay.stores.rows.columns import Row, integer, text, to_address
from agentpay.stores.rows.tables import Change, Cut, Put, Table
from agentpay.types import Address, ChainId

SENT: Final = Table(
    "sent_transactions",
    "chain integer, account bytes, nonce integer, owner text, raws bytes, what text,"
    " deadline integer",
    keys=4,
)
"""Read in order of nonce and owner."""
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
    return [Put(SENT, row)]


def forget_sent(
    chain: ChainId, account: Address, nonce: int, owner: str
) -> list[Change]:
    return [Cut(SENT, (integer(chain), account.to_bytes(), integer(nonce), owner))]


def changed(rows: Iterable[Row], changes: Iterable[Change]) -> tuple[Row, ...]:
    """What rows are after changes, in order of their keys."""
    after = {row[: SENT.keys]: row for row in rows}
    for change in changes:
        if isinstance(change, Put):
            after[change.row[: SENT.keys]] = change.row
        else:
            after.pop(change.key, None)
    return tuple([after[key] for key in sorted(after)])


def take_over(
    rows: Iterable[Row], owner: str, living: frozenset[str] = frozenset()
) -> tuple[list[SentTransaction], list[Change]]:
    """
    What is in flight for one account: ours, and what dead owners left, which becomes
    ours by the changes.

    Raises:
        ValueError: A row is not one that we wrote.
    """
    found = [(row[3], _to_sent(row)) for row in rows]
    ours = {sent.nonce: sent for kept_by, sent in found if kept_by == owner}
    changes: list[Change] = []
    for kept_by, sent in found:
        if kept_by == owner or kept_by in living:
            continue
        if sent.nonce not in ours:
            ours[sent.nonce] = sent
            changes += save_sent(sent, owner)
        changes += forget_sent(sent.chain, sent.account, sent.nonce, kept_by)
    return [ours[nonce] for nonce in sorted(ours)], changes


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
