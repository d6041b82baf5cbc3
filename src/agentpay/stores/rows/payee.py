"""
A payee's records as rows: which statements save a step, and how a record is read back.

A step writes the channel's row and the rows of the vouchers it touched, never the whole
window; so what a step says it touched must be true.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import attrgetter
from typing import Final

from agentpay.core.payee_channel import (
    Fate,
    HeldVoucher,
    PartRefund,
    PayeeChannel,
    Reservation,
    Status,
    Used,
    by_cumulative,
)
from agentpay.errors import InvariantViolated
from agentpay.records import Config, PayeeRecord, PaymentRecord, PaymentStatus
from agentpay.stores.rows.columns import (
    AMOUNT_BYTES,
    CONFIG_COLUMNS,
    CONFIG_COUNT,
    Row,
    amount,
    changes,
    config_columns,
    integer,
    text,
    to_address,
    to_config,
)
from agentpay.stores.rows.tables import Change, Columns, Cut, Put, Table
from agentpay.types import ChainId, Hash32

CHANNELS: Final = Table(
    "payee_channels",
    f"channel bytes, chain integer, {CONFIG_COLUMNS}, tagged flag, window integer,"
    " in_flight_max integer, status text, balance amount, claimed amount,"
    " pending_withdrawal amount, charged amount, highest amount, floor amount,"
    " closing_voucher amount, held bytes, refund_nonce amount,"
    " withdrawal_started integer, last_voucher_at integer, chain_seen_at integer,"
    " part_amount amount, part_nonce amount, part_refunded amount,"
    " part_transaction text, owing_since integer, unclaimed amount",
    keys=1,
)
USED: Final = Table(
    "payee_used", "channel bytes, cumulative amount, fate text, charged amount", keys=2
)
"""Read in order of amount."""
RUNNING: Final = Table(
    "payee_running",
    "channel bytes, cumulative amount, maximum amount, charged amount, prepaid flag,"
    " owner text, resource text, answered flag",
    keys=2,
)
"""Read in the order in which they were put."""
PAYMENTS: Final = Table(
    "payments",
    "id text, payer bytes, amount amount, resource text, owner text,"
    " started_at integer, status text, transaction_hash text, charged amount,"
    " good_until integer, request text",
    keys=1,
)
MARKS: Final = Table("marks", "name text, until integer", keys=1)
CURSORS: Final = Table("cursors", "name text, position integer", keys=1)

_SHOWN: Final = " shown"
"""After a fate, where the chain shows its voucher."""
_LENGTH_BYTES: Final = 2
_NOTHING: Final = PayeeChannel(tagged=True, window=0, in_flight_max=0)


def save_channel(
    before: PayeeRecord | None, after: PayeeRecord, touched: tuple[int, ...]
) -> list[Change]:
    """
    Raises:
        InvariantViolated: The touched amounts do not explain the change.
    """
    ledger = after.ledger
    terms = _terms(after.channel, after.chain, after.config)
    channel = after.channel.to_bytes()
    if before is None:
        was = _NOTHING
        touched = tuple(used.cumulative for used in ledger.used)
    else:
        was = before.ledger
    return [
        Put(CHANNELS, (*terms, *_state(after))),
        *_save_used(channel, was, ledger, touched),
        *_save_running(channel, was, ledger),
    ]


@lru_cache(maxsize=1024)
def _terms(channel: Hash32, chain: ChainId, config: Config) -> Columns:
    """The columns that never change; an id and its chain have one config."""
    return (channel.to_bytes(), integer(chain), *config_columns(config))


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
        integer(record.withdrawal_started),
        integer(record.last_voucher_at),
        integer(record.chain_seen_at),
        *_part(ledger.part),
        integer(record.owing_since),
        amount(ledger.unclaimed),
    )


def _part(part: PartRefund | None) -> Columns:
    if part is None:
        return (None, None, None, "")
    nonce, refunded = part.nonce, part.refunded
    return (
        amount(part.amount),
        None if nonce is None else amount(nonce),
        None if refunded is None else amount(refunded),
        text(part.transaction),
    )


def _save_used(
    channel: bytes, before: PayeeChannel, after: PayeeChannel, touched: tuple[int, ...]
) -> list[Change]:
    gone, changed = changed_used(before, after, touched)
    saving: list[Change] = [Cut(USED, (channel, used.cumulative)) for used in gone]
    for cumulative, used in changed:
        key = channel, amount(cumulative)
        if used is None:
            saving.append(Cut(USED, key))
        else:
            row = (*key, _fate(used), amount(used.charged))
            saving.append(Put(USED, row))
    return saving


def changed_used(
    before: PayeeChannel, after: PayeeChannel, touched: Iterable[int]
) -> tuple[tuple[Used, ...], list[tuple[int, Used | None]]]:
    """
    Which amounts have left the window, and what the others that changed are now.

    Raises:
        InvariantViolated: The touched amounts do not explain the change.
    """
    if before.used is after.used or not (before.used or after.used):
        return (), []
    lowest = _lowest_kept(before, after)
    gone = bisect_left(before.used, lowest, key=by_cumulative)
    explained = len(before.used) - gone
    changed: list[tuple[int, Used | None]] = []
    for cumulative in dict.fromkeys(touched):
        known = cumulative >= lowest and before.find_used(cumulative) is not None
        used = after.find_used(cumulative)
        explained += (used is not None) - known
        if used is not None or known:
            changed.append((cumulative, used))
    if explained != len(after.used):
        raise InvariantViolated(
            f"a step remembers {len(after.used)} amounts, and touching {touched}"
            f" explains {explained}: after a restart the others could be spent again"
        )
    return before.used[:gone], changed


def _lowest_kept(before: PayeeChannel, after: PayeeChannel) -> int:
    """What is below has left the window, and is under the floor now."""
    if after.used:
        return after.used[0].cumulative
    return before.used[-1].cumulative + 1


def _save_running(
    channel: bytes, before: PayeeChannel, after: PayeeChannel
) -> list[Change]:
    removed, put = changes(before.running, after.running, _cumulative)
    return [
        *[Cut(RUNNING, (channel, amount(r.cumulative))) for r in removed],
        *[Put(RUNNING, (channel, *_reservation(r))) for r in put],
    ]


_cumulative: Callable[[Reservation], int] = attrgetter("cumulative")


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


def to_record(row: Row, used: Iterable[Row], running: Iterable[Row]) -> PayeeRecord:
    """
    The record of a channel's row, with the rows of its vouchers in their order.

    Raises:
        ValueError: A row is not one that we wrote.
    """
    channel, chain, *rest = row
    config, state = rest[:CONFIG_COUNT], rest[CONFIG_COUNT:]
    tagged, window, in_flight_max, status, balance, claimed, pending, *state = state
    charged, highest, floor, asked, held, refund_nonce, *state = state
    withdrawal_started, last_voucher_at, chain_seen_at, *state = state
    *part, owing_since, _ = state
    ledger = PayeeChannel(
        tagged=bool(tagged),
        window=window,
        in_flight_max=in_flight_max,
        status=Status(status),
        balance=balance,
        claimed=claimed,
        pending_withdrawal=pending,
        charged=charged,
        highest=highest,
        floor=floor,
        used=tuple(map(_to_used, used)),
        running=tuple(map(_to_reservation, running)),
        held=unpack_held(held),
        closing_voucher=asked,
        part=_to_part(*part),
        pays_whole=config[-1] is not None,
    )
    return PayeeRecord(
        channel=Hash32.of(channel),
        chain=ChainId(chain),
        config=to_config(tuple(config), ChainId(chain)),
        ledger=ledger,
        refund_nonce=refund_nonce,
        withdrawal_started=withdrawal_started,
        last_voucher_at=last_voucher_at,
        chain_seen_at=chain_seen_at,
        owing_since=owing_since,
    )


def _to_part(
    amount: int | None, nonce: int | None, refunded: int | None, transaction: str
) -> PartRefund | None:
    if amount is None:
        return None
    return PartRefund(
        amount=amount, nonce=nonce, refunded=refunded, transaction=transaction
    )


def _fate(used: Used) -> str:
    return f"{used.fate.value}{_SHOWN}" if used.shown else used.fate.value


def _to_used(row: Row) -> Used:
    _, cumulative, fate, charged = row
    return Used(
        cumulative=cumulative,
        fate=Fate(fate.removesuffix(_SHOWN)),
        charged=charged,
        shown=fate.endswith(_SHOWN),
    )


def _to_reservation(row: Row) -> Reservation:
    _, cumulative, maximum, charged, prepaid, owner, resource, answered = row
    return Reservation(
        cumulative=cumulative,
        maximum=maximum,
        charged=charged,
        prepaid=bool(prepaid),
        owner=owner,
        resource=resource,
        answered=bool(answered),
    )


def pack_held(held: tuple[HeldVoucher, ...]) -> bytes:
    """A few, always written together, so one column: amount, length, bytes."""
    return b"".join(
        [
            amount(v.amount).to_bytes(AMOUNT_BYTES, "big")
            + len(signature(v.signature)).to_bytes(_LENGTH_BYTES, "big")
            + v.signature
            for v in held
        ]
    )


def signature(value: bytes) -> bytes:
    if len(value) >= 1 << 8 * _LENGTH_BYTES:
        raise InvariantViolated(f"no store keeps a signature of {len(value)} bytes")
    return value


def unpack_held(column: bytes) -> tuple[HeldVoucher, ...]:
    """
    Raises:
        ValueError: Not what `pack_held` makes.
    """
    held: list[HeldVoucher] = []
    while column:
        start = AMOUNT_BYTES + _LENGTH_BYTES
        end = start + int.from_bytes(column[AMOUNT_BYTES:start], "big")
        if len(column) < end:
            raise ValueError("a held voucher is cut short")
        value = int.from_bytes(column[:AMOUNT_BYTES], "big")
        held.append(HeldVoucher(amount=value, signature=column[start:end]))
        column = column[end:]
    return tuple(held)


def save_payment(payment: PaymentRecord) -> list[Change]:
    columns = (
        text(payment.id),
        payment.payer.to_bytes(),
        amount(payment.amount),
        text(payment.resource),
        text(payment.owner),
        integer(payment.started_at),
        payment.status.value,
        text(payment.transaction),
        amount(payment.charged),
        integer(payment.good_until),
        text(payment.request),
    )
    return [Put(PAYMENTS, columns)]


def forget_payment(payment_id: str) -> list[Change]:
    return [Cut(PAYMENTS, (text(payment_id),))]


def to_payment(row: Row) -> PaymentRecord:
    """
    Raises:
        ValueError: The row is not one that we wrote.
    """
    payment_id, payer, paid, resource, owner, started_at, *rest = row
    status, transaction, charged, good_until, request = rest
    return PaymentRecord(
        id=payment_id,
        payer=to_address(payer),
        amount=paid,
        resource=resource,
        owner=owner,
        started_at=started_at,
        status=PaymentStatus(status),
        transaction=transaction,
        charged=charged,
        good_until=good_until,
        request=request,
    )


def save_cursor(name: str, position: int) -> list[Change]:
    return [Put(CURSORS, (text(name), integer(position)))]


def save_mark(name: str, until: int) -> list[Change]:
    return [Put(MARKS, (text(name), integer(until)))]
