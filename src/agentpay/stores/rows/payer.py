"""
A payer's channels and budgets as rows: what saves a change, and how they are read back.

Tickets, holds and signed amounts are written where they differ from what was saved.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable
from typing import Final

from agentpay.core.budget import Budget, Hold, HostSpending, Lapse
from agentpay.core.payer_channel import (
    PayerChannel,
    PayerStatus,
    PendingDeposit,
    Ticket,
)
from agentpay.records import PayerRecord
from agentpay.stores.rows.columns import (
    CONFIG_COLUMNS,
    CONFIG_COUNT,
    Row,
    amount,
    changes,
    config_columns,
    integer,
    text,
    to_config,
)
from agentpay.stores.rows.tables import Change, Columns, Cut, Put, Table
from agentpay.types import Address, ChainId, Hash32

CHANNELS: Final = Table(
    "payer_channels",
    f"account bytes, channel bytes, chain integer, {CONFIG_COLUMNS}, origin text,"
    " number integer, decimals integer, url text, offer text, tagged flag,"
    " window integer, in_flight_max integer, headroom amount, status text,"
    " balance amount, spent amount, acknowledged amount, deposit_amount amount,"
    " deposit_salt bytes, deposit_valid_before integer",
    keys=2,
)
SIGNED: Final = Table(
    "payer_signed", "account bytes, channel bytes, cumulative amount", keys=3
)
"""Read in order of amount."""
TICKETS: Final = Table(
    "payer_tickets",
    "account bytes, channel bytes, cumulative amount, maximum amount, arrived flag,"
    " delivered amount",
    keys=3,
)
"""Read in the order in which they were put; so are the tables of budgets."""
SPENT: Final = Table("budget_spent", "account bytes, host text, amount amount", keys=2)
HOLDS: Final = Table(
    "budget_holds",
    "account bytes, id text, host text, amount amount, valid_before integer,"
    " detail text, request text, presented_until integer",
    keys=2,
)
LAPSES: Final = Table(
    "budget_lapses", "account bytes, host text, count integer, last integer", keys=2
)

_NOTHING: Final = PayerChannel(tagged=True, window=0, in_flight_max=0, headroom=0)


def save_channel(
    account: Address, before: PayerRecord | None, after: PayerRecord
) -> list[Change]:
    key = account.to_bytes(), after.channel.to_bytes()
    was = before.ledger if before is not None else _NOTHING
    return [
        Put(CHANNELS, (*key, *_terms(after), *_state(after.ledger))),
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
    gone, new = _changed(before, after)
    return [
        *(Cut(SIGNED, (*key, amount(each))) for each in gone),
        *(Put(SIGNED, (*key, amount(each))) for each in new),
    ]


def _changed(
    before: tuple[int, ...], after: tuple[int, ...]
) -> tuple[Collection[int], Collection[int]]:
    """Which of the first amounts are gone, and which are new; both ascend."""
    # Nearly always the lowest are gone, and the new ones are above all others.
    low = bisect_left(before, after[0]) if after else len(before)
    high = bisect_right(after, before[-1]) if before else 0
    if before[low:] == after[:high]:
        return before[:low], after[high:]
    known, kept = set(before), set(after)
    return known - kept, kept - known


def _save_tickets(
    key: tuple[bytes, bytes], before: tuple[Ticket, ...], after: tuple[Ticket, ...]
) -> list[Change]:
    removed, put = changes(before, after, lambda ticket: ticket.cumulative)
    return [
        *(Cut(TICKETS, (*key, amount(t.cumulative))) for t in removed),
        *(Put(TICKETS, (*key, *_ticket(t))) for t in put),
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
        *(Cut(SPENT, (key, text(s.host))) for s in less),
        *(Put(SPENT, (key, text(s.host), amount(s.amount))) for s in more),
        *(Cut(HOLDS, (key, text(h.id))) for h in done),
        *(Put(HOLDS, (key, *_hold(h))) for h in held),
        *_save_lapses(key, before.lapses, after.lapses),
    ]


def _save_lapses(
    key: bytes, before: tuple[Lapse, ...], after: tuple[Lapse, ...]
) -> list[Change]:
    over, noted = changes(before, after, lambda lapse: lapse.host)
    return [
        *(Cut(LAPSES, (key, text(lapse.host))) for lapse in over),
        *(
            Put(LAPSES, (key, text(p.host), integer(p.count), integer(p.last)))
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
        text(hold.request),
        integer(hold.presented_until),
    )


def to_record(row: Row, signed: Iterable[Row], tickets: Iterable[Row]) -> PayerRecord:
    """
    The record of a channel's row, with the rows of its vouchers in their order.

    Raises:
        ValueError: A row is not one that we wrote.
    """
    _, channel, chain, *rest = row
    config, rest = rest[:CONFIG_COUNT], rest[CONFIG_COUNT:]
    origin, number, decimals, url, offer, *state = rest
    tagged, window, in_flight_max, headroom, status, balance, *state = state
    spent, acknowledged, *deposit = state
    ledger = PayerChannel(
        tagged=bool(tagged),
        window=window,
        in_flight_max=in_flight_max,
        headroom=headroom,
        status=PayerStatus(status),
        balance=balance,
        spent=spent,
        open=tuple(map(_to_ticket, tickets)),
        signed=tuple([cumulative for _, _, cumulative in signed]),
        acknowledged=acknowledged,
        deposit=_to_deposit(*deposit),
    )
    return PayerRecord(
        channel=Hash32.of(channel),
        chain=ChainId(chain),
        config=to_config(tuple(config), ChainId(chain)),
        origin=origin,
        index=number,
        ledger=ledger,
        decimals=decimals,
        url=url,
        offer=offer,
    )


def _to_ticket(row: Row) -> Ticket:
    _, _, cumulative, maximum, arrived, delivered = row
    return Ticket(
        cumulative=cumulative,
        maximum=maximum,
        arrived=bool(arrived),
        delivered=delivered,
    )


def _to_deposit(
    value: int | None, salt: bytes | None, valid_before: int | None
) -> PendingDeposit | None:
    if value is None or salt is None or valid_before is None:
        return None
    return PendingDeposit(amount=value, salt=Hash32.of(salt), valid_before=valid_before)


def to_budget(
    spent: Iterable[Row], holds: Iterable[Row], lapses: Iterable[Row]
) -> Budget:
    """The budget of one account's rows, each in the order in which they were put."""
    return Budget(
        lapses=tuple([Lapse(host=h, count=n, last=at) for _, h, n, at in lapses]),
        spent=tuple([HostSpending(host=h, amount=paid) for _, h, paid in spent]),
        holds=tuple(map(_to_hold, holds)),
    )


def _to_hold(row: Row) -> Hold:
    _, hold_id, host, held, valid_before, detail, request, presented_until = row
    return Hold(
        id=hold_id,
        host=host,
        amount=held,
        valid_before=valid_before,
        detail=detail,
        request=request,
        presented_until=presented_until,
    )
