"""
A payee's records as rows: which statements save a step, and how a record is read back.

A step writes the channel's row and the rows of the vouchers it touched, never the whole
window; so what a step says it touched must be true.
"""

import sqlite3
from bisect import bisect_left
from typing import Final

from agentpay.core.payee_channel import (
    Fate,
    HeldVoucher,
    PayeeChannel,
    Reservation,
    Status,
    Used,
    by_cumulative,
)
from agentpay.errors import InvariantViolated
from agentpay.records import PayeeRecord
from agentpay.stores.sqlite.rows import (
    AMOUNT_BYTES,
    CONFIG_COLUMNS,
    Row,
    amount,
    changes,
    config_columns,
    integer,
    text,
    to_config,
    to_int,
)
from agentpay.stores.sqlite.tables import Change, Columns, Cut, Put, Table, select
from agentpay.types import ChainId, Hash32

_STATE: Final = (
    "tagged, window, in_flight_max, status, balance, claimed, pending_withdrawal,"
    " charged, highest, floor, closing_voucher, held, refund_nonce, last_voucher_at,"
    " chain_seen_at"
)
_CHANNELS: Final = Table(
    "payee_channels",
    f"channel, chain, {CONFIG_COLUMNS}, {_STATE}, unclaimed",
    keys=1,
)
_USED: Final = Table("payee_used", "channel, cumulative, fate, charged", keys=2)
_RUNNING: Final = Table(
    "payee_running",
    "channel, cumulative, maximum, charged, prepaid, owner, resource, answered",
    keys=2,
)
_MARKS: Final = Table("marks", "name, until", keys=1)
_CURSORS: Final = Table("cursors", "name, position", keys=1)

_GET_CHANNEL: Final = select(
    f"chain, refund_nonce, last_voucher_at, chain_seen_at, {CONFIG_COLUMNS}",
    _CHANNELS,
    by=1,
)
_GET_STATE: Final = select(f"escrow, {_STATE}", _CHANNELS, by=1)
_GET_USED: Final = select("cumulative, fate, charged", _USED, by=1, order="cumulative")
_GET_RUNNING: Final = select(
    "cumulative, maximum, charged, prepaid, owner, resource, answered",
    _RUNNING,
    by=1,
    order="position",
)
_GET_MARK: Final = select("until", _MARKS, by=1)
_GET_CURSOR: Final = select("position", _CURSORS, by=1)

_NOTHING: Final = PayeeChannel(tagged=True, window=0, in_flight_max=0)


def save_channel(
    before: PayeeRecord | None, after: PayeeRecord, touched: tuple[int, ...]
) -> list[Change]:
    """
    Raises:
        InvariantViolated: The touched amounts do not explain the change.
    """
    ledger = after.ledger
    channel = after.channel.to_bytes()
    if before is None:
        was = _NOTHING
        touched = tuple(used.cumulative for used in ledger.used)
    else:
        was = before.ledger
    return [
        Put(_CHANNELS, (channel, *_terms(after), *_state(after))),
        *_save_used(channel, was, ledger, touched),
        *_save_running(channel, was, ledger),
    ]


def _terms(record: PayeeRecord) -> Columns:
    return (integer(record.chain), *config_columns(record.config))


def _state(record: PayeeRecord) -> Columns:
    ledger = record.ledger
    asked = ledger.closing_voucher
    return (
        ledger.tagged,
        integer(ledger.window),
        integer(ledger.in_flight_max),
        ledger.status.value,
        amount(ledger.balance),
        amount(ledger.claimed),
        amount(ledger.pending_withdrawal),
        amount(ledger.charged),
        amount(ledger.highest),
        amount(ledger.floor),
        None if asked is None else amount(asked),
        pack_held(ledger.held),
        amount(record.refund_nonce),
        integer(record.last_voucher_at),
        integer(record.chain_seen_at),
        amount(ledger.unclaimed),
    )


def _save_used(
    channel: bytes, before: PayeeChannel, after: PayeeChannel, touched: tuple[int, ...]
) -> list[Change]:
    if before.used is after.used or not (before.used or after.used):
        return []
    lowest = _lowest_kept(before, after)
    gone = bisect_left(before.used, lowest, key=by_cumulative)
    saving: list[Change] = [
        Cut(_USED, (channel, amount(used.cumulative))) for used in before.used[:gone]
    ]
    explained = len(before.used) - gone
    for cumulative in dict.fromkeys(touched):
        known = cumulative >= lowest and before.find_used(cumulative) is not None
        used = after.find_used(cumulative)
        explained += (used is not None) - known
        key = channel, amount(cumulative)
        if used is not None:
            row = (*key, used.fate.value, amount(used.charged))
            saving.append(Put(_USED, row))
        elif known:
            saving.append(Cut(_USED, key))
    if explained != len(after.used):
        raise InvariantViolated(
            f"a step remembers {len(after.used)} amounts, and touching {touched}"
            f" explains {explained}: after a restart the others could be spent again"
        )
    return saving


def _lowest_kept(before: PayeeChannel, after: PayeeChannel) -> int:
    """What is below has left the window, and is under the floor now."""
    if after.used:
        return after.used[0].cumulative
    return before.used[-1].cumulative + 1


def _save_running(
    channel: bytes, before: PayeeChannel, after: PayeeChannel
) -> list[Change]:
    removed, put = changes(before.running, after.running, lambda r: r.cumulative)
    return [
        *(Cut(_RUNNING, (channel, amount(r.cumulative))) for r in removed),
        *(Put(_RUNNING, (channel, *_reservation(r))) for r in put),
    ]


def _reservation(reservation: Reservation) -> Columns:
    return (
        amount(reservation.cumulative),
        amount(reservation.maximum),
        amount(reservation.charged),
        reservation.prepaid,
        text(reservation.owner),
        text(reservation.resource),
        reservation.answered,
    )


def load_channel(connection: sqlite3.Connection, channel: Hash32) -> PayeeRecord | None:
    """
    Raises:
        ValueError: A row is not one that we wrote.
    """
    row: Row | None = connection.execute(_GET_CHANNEL, (channel.to_bytes(),)).fetchone()
    if row is None:
        return None
    chain, refund_nonce, last_voucher_at, chain_seen_at, *config = row
    return PayeeRecord(
        channel=channel,
        chain=ChainId(chain),
        config=to_config(tuple(config), ChainId(chain)),
        ledger=_load_ledger(connection, channel.to_bytes()),
        refund_nonce=to_int(refund_nonce),
        last_voucher_at=last_voucher_at,
        chain_seen_at=chain_seen_at,
    )


def _load_ledger(connection: sqlite3.Connection, channel: bytes) -> PayeeChannel:
    row: Row = connection.execute(_GET_STATE, (channel,)).fetchone()
    escrow, tagged, window, in_flight_max, status, balance, claimed, *rest = row
    pending, charged, highest, floor, asked, held, *_ = rest
    return PayeeChannel(
        tagged=bool(tagged),
        window=window,
        in_flight_max=in_flight_max,
        status=Status(status),
        balance=to_int(balance),
        claimed=to_int(claimed),
        pending_withdrawal=to_int(pending),
        charged=to_int(charged),
        highest=to_int(highest),
        floor=to_int(floor),
        used=_load_used(connection, channel),
        running=_load_running(connection, channel),
        held=unpack_held(held),
        closing_voucher=None if asked is None else to_int(asked),
        pays_whole=escrow is not None,
    )


def _load_used(connection: sqlite3.Connection, channel: bytes) -> tuple[Used, ...]:
    rows = connection.execute(_GET_USED, (channel,))
    return tuple(
        Used(cumulative=to_int(cumulative), fate=Fate(fate), charged=to_int(charged))
        for cumulative, fate, charged in rows
    )


def _load_running(
    connection: sqlite3.Connection, channel: bytes
) -> tuple[Reservation, ...]:
    rows = connection.execute(_GET_RUNNING, (channel,))
    return tuple(
        Reservation(
            cumulative=to_int(cumulative),
            maximum=to_int(maximum),
            charged=to_int(charged),
            prepaid=bool(prepaid),
            owner=owner,
            resource=resource,
            answered=bool(answered),
        )
        for cumulative, maximum, charged, prepaid, owner, resource, answered in rows
    )


def pack_held(held: tuple[HeldVoucher, ...]) -> bytes:
    """A few, always written together, so one column: amount, length, bytes."""
    return b"".join(
        amount(v.amount) + len(v.signature).to_bytes(2, "big") + v.signature
        for v in held
    )


def unpack_held(column: bytes) -> tuple[HeldVoucher, ...]:
    """
    Raises:
        ValueError: Not what `pack_held` makes.
    """
    held: list[HeldVoucher] = []
    while column:
        start = AMOUNT_BYTES + 2
        end = start + int.from_bytes(column[AMOUNT_BYTES:start], "big")
        if len(column) < end:
            raise ValueError("a held voucher is cut short")
        value = to_int(column[:AMOUNT_BYTES])
        held.append(HeldVoucher(amount=value, signature=column[start:end]))
        column = column[end:]
    return tuple(held)


def list_claimable(
    connection: sqlite3.Connection, *, sessions: bool, at_least: int, limit: int
) -> list[Hash32]:
    rows = connection.execute(
        f"SELECT channel FROM payee_channels WHERE {_kind(sessions)}"  # noqa: S608
        " AND unclaimed > zeroblob(32) AND unclaimed >= ?"
        " ORDER BY unclaimed DESC, channel LIMIT ?",
        (amount(at_least), limit),
    )
    return [Hash32.of(channel) for (channel,) in rows]


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


# Said as the indexes say it, or they are not used.
_SESSION_ENDS: Final = (
    "(status = 'closing' OR status = 'open'"
    " AND pending_withdrawal > zeroblob(32) AND charged > claimed)"
)


def _kind(sessions: bool) -> str:
    return "escrow IS NOT NULL" if sessions else "escrow IS NULL"


def save_cursor(name: str, position: int) -> list[Change]:
    return [Put(_CURSORS, (text(name), integer(position)))]


def load_cursor(connection: sqlite3.Connection, name: str) -> int:
    row: Row | None = connection.execute(_GET_CURSOR, (name,)).fetchone()
    return 0 if row is None else int(row[0])


def save_mark(name: str, until: int) -> list[Change]:
    return [Put(_MARKS, (text(name), integer(until)))]


def load_mark(connection: sqlite3.Connection, name: str) -> int:
    row: Row | None = connection.execute(_GET_MARK, (name,)).fetchone()
    return 0 if row is None else int(row[0])


def sweep_marks(connection: sqlite3.Connection, *, now: int) -> None:
    connection.execute("DELETE FROM marks WHERE until <= ?", (now,))
