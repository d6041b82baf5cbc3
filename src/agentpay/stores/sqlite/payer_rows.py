"""
A payer's channels and budgets as rows: what saves a change, and how they are read back.

Tickets, holds and signed amounts are written where they differ from what was saved.
"""

import sqlite3
from typing import Final

from agentpay.core.budget import Budget, Hold, HostSpending, Lapse
from agentpay.core.payer_channel import (
    PayerChannel,
    PayerStatus,
    PendingDeposit,
    Ticket,
)
from agentpay.records import PayerRecord
from agentpay.stores.sqlite.rows import (
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
from agentpay.types import Address, ChainId, Hash32

Key = tuple[Address, Hash32]
"""An account and one of its channels."""

_STATE: Final = (
    "tagged, window, in_flight_max, headroom, status, balance, spent, acknowledged,"
    " deposit_amount, deposit_salt, deposit_valid_before"
)
_TERMS: Final = f"chain, {CONFIG_COLUMNS}, origin, number, decimals, url, offer"
_CHANNELS: Final = Table(
    "payer_channels", f"account, channel, {_TERMS}, {_STATE}", keys=2
)
_SIGNED: Final = Table("payer_signed", "account, channel, cumulative", keys=3)
_TICKETS: Final = Table(
    "payer_tickets",
    "account, channel, cumulative, maximum, arrived, delivered",
    keys=3,
)
_SPENT: Final = Table("budget_spent", "account, host, amount", keys=2)
_HOLDS: Final = Table(
    "budget_holds", "account, id, host, amount, valid_before, detail", keys=2
)

_LAPSES: Final = Table("budget_lapses", "account, host, count, last", keys=2)

_GET_CHANNEL: Final = select(
    f"chain, origin, number, decimals, url, offer, {CONFIG_COLUMNS}", _CHANNELS, by=2
)
_GET_STATE: Final = select(_STATE, _CHANNELS, by=2)
_GET_SIGNED: Final = select("cumulative", _SIGNED, by=2, order="cumulative")
_GET_TICKETS: Final = select(
    "cumulative, maximum, arrived, delivered", _TICKETS, by=2, order="position"
)
_GET_SPENT: Final = select("host, amount", _SPENT, by=1, order="position")
_GET_HOLDS: Final = select(
    "id, host, amount, valid_before, detail", _HOLDS, by=1, order="position"
)
_GET_LAPSES: Final = select("host, count, last", _LAPSES, by=1, order="position")
_GET_CHANNELS: Final = select("channel", _CHANNELS, by=1)

_NOTHING: Final = PayerChannel(tagged=True, window=0, in_flight_max=0, headroom=0)


def save_channel(
    account: Address, before: PayerRecord | None, after: PayerRecord
) -> list[Change]:
    key = account.to_bytes(), after.channel.to_bytes()
    was = before.ledger if before is not None else _NOTHING
    return [
        Put(_CHANNELS, (*key, *_terms(after), *_state(after.ledger))),
        *_save_signed(key, was.signed, after.ledger.signed),
        *_save_tickets(key, was.open, after.ledger.open),
    ]


def _terms(record: PayerRecord) -> Columns:
    return (
        integer(record.chain),
        *config_columns(record.config),
        text(record.origin),
        integer(record.index),
        integer(record.decimals),
        text(record.url),
        text(record.offer),
    )


def _state(ledger: PayerChannel) -> Columns:
    pending = ledger.deposit
    deposit: Columns = (None, None, None)
    if pending is not None:
        valid_before = integer(pending.valid_before)
        deposit = (amount(pending.amount), pending.salt.to_bytes(), valid_before)
    return (
        ledger.tagged,
        integer(ledger.window),
        integer(ledger.in_flight_max),
        amount(ledger.headroom),
        ledger.status.value,
        amount(ledger.balance),
        amount(ledger.spent),
        amount(ledger.acknowledged),
        *deposit,
    )


def _save_signed(
    key: tuple[bytes, bytes], before: tuple[int, ...], after: tuple[int, ...]
) -> list[Change]:
    if before is after:
        return []
    known, kept = set(before), set(after)
    return [
        *(Cut(_SIGNED, (*key, amount(cut))) for cut in known - kept),
        *(Put(_SIGNED, (*key, amount(new))) for new in kept - known),
    ]


def _save_tickets(
    key: tuple[bytes, bytes], before: tuple[Ticket, ...], after: tuple[Ticket, ...]
) -> list[Change]:
    removed, put = changes(before, after, lambda ticket: ticket.cumulative)
    return [
        *(Cut(_TICKETS, (*key, amount(t.cumulative))) for t in removed),
        *(Put(_TICKETS, (*key, *_ticket(t))) for t in put),
    ]


def _ticket(ticket: Ticket) -> Columns:
    return (
        amount(ticket.cumulative),
        amount(ticket.maximum),
        ticket.arrived,
        amount(ticket.delivered),
    )


def save_budget(account: Address, before: Budget, after: Budget) -> list[Change]:
    key = account.to_bytes()
    less, more = changes(before.spent, after.spent, lambda spending: spending.host)
    done, held = changes(before.holds, after.holds, lambda hold: hold.id)
    return [
        *(Cut(_SPENT, (key, text(s.host))) for s in less),
        *(Put(_SPENT, (key, text(s.host), amount(s.amount))) for s in more),
        *(Cut(_HOLDS, (key, text(h.id))) for h in done),
        *(Put(_HOLDS, (key, *_hold(h))) for h in held),
        *_save_lapses(key, before.lapses, after.lapses),
    ]


def _save_lapses(
    key: bytes, before: tuple[Lapse, ...], after: tuple[Lapse, ...]
) -> list[Change]:
    over, noted = changes(before, after, lambda lapse: lapse.host)
    return [
        *(Cut(_LAPSES, (key, text(lapse.host))) for lapse in over),
        *(
            Put(_LAPSES, (key, text(p.host), integer(p.count), integer(p.last)))
            for p in noted
        ),
    ]


def _hold(hold: Hold) -> Columns:
    return (
        text(hold.id),
        text(hold.host),
        amount(hold.amount),
        integer(hold.valid_before),
        text(hold.detail),
    )


def load_channel(connection: sqlite3.Connection, key: Key) -> PayerRecord | None:
    """
    Raises:
        ValueError: A row is not one that we wrote.
    """
    account, channel = key
    raw = account.to_bytes(), channel.to_bytes()
    row: Row | None = connection.execute(_GET_CHANNEL, raw).fetchone()
    if row is None:
        return None
    chain, origin, number, decimals, url, offer, *config = row
    return PayerRecord(
        channel=channel,
        chain=ChainId(chain),
        config=to_config(tuple(config), ChainId(chain)),
        origin=origin,
        index=number,
        ledger=_load_ledger(connection, raw),
        decimals=decimals,
        url=url,
        offer=offer,
    )


def _load_ledger(
    connection: sqlite3.Connection, raw: tuple[bytes, bytes]
) -> PayerChannel:
    row: Row = connection.execute(_GET_STATE, raw).fetchone()
    tagged, window, in_flight_max, headroom, status, balance, *rest = row
    spent, acknowledged, *deposit = rest
    return PayerChannel(
        tagged=bool(tagged),
        window=window,
        in_flight_max=in_flight_max,
        headroom=to_int(headroom),
        status=PayerStatus(status),
        balance=to_int(balance),
        spent=to_int(spent),
        open=_load_tickets(connection, raw),
        signed=_load_signed(connection, raw),
        acknowledged=to_int(acknowledged),
        deposit=_to_deposit(*deposit),
    )


def _to_deposit(
    value: bytes | None, salt: bytes | None, valid_before: int | None
) -> PendingDeposit | None:
    if value is None or salt is None or valid_before is None:
        return None
    return PendingDeposit(
        amount=to_int(value), salt=Hash32.of(salt), valid_before=valid_before
    )


def _load_signed(
    connection: sqlite3.Connection, raw: tuple[bytes, bytes]
) -> tuple[int, ...]:
    rows = connection.execute(_GET_SIGNED, raw)
    return tuple(to_int(cumulative) for (cumulative,) in rows)


def _load_tickets(
    connection: sqlite3.Connection, raw: tuple[bytes, bytes]
) -> tuple[Ticket, ...]:
    rows = connection.execute(_GET_TICKETS, raw)
    return tuple(
        Ticket(
            cumulative=to_int(cumulative),
            maximum=to_int(maximum),
            arrived=bool(arrived),
            delivered=to_int(delivered),
        )
        for cumulative, maximum, arrived, delivered in rows
    )


def load_budget(connection: sqlite3.Connection, account: Address) -> Budget:
    """
    Raises:
        ValueError: A row is not one that we wrote.
    """
    key = (account.to_bytes(),)
    spent = connection.execute(_GET_SPENT, key)
    holds = connection.execute(_GET_HOLDS, key)
    lapses = connection.execute(_GET_LAPSES, key)
    return Budget(
        lapses=tuple(Lapse(host=h, count=count, last=at) for h, count, at in lapses),
        spent=tuple(HostSpending(host=h, amount=to_int(paid)) for h, paid in spent),
        holds=tuple(
            Hold(
                id=hold_id,
                host=host,
                amount=to_int(held),
                valid_before=valid_before,
                detail=detail,
            )
            for hold_id, host, held, valid_before, detail in holds
        ),
    )


def list_channels(connection: sqlite3.Connection, account: Address) -> list[Hash32]:
    rows = connection.execute(_GET_CHANNELS, (account.to_bytes(),))
    return [Hash32.of(channel) for (channel,) in rows]
