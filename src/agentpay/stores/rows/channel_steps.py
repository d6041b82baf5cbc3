"""
Steps on one channel that are saved together, as one step from the first to the last.

Rows are made once for all of them. So that a step that no database could take is still
found out alone, before it is shown to anybody, each is checked when it is added, for
just what making its rows would refuse.
"""

from collections.abc import Iterable

from agentpay.core.payee_channel import Reservation
from agentpay.errors import InvariantViolated
from agentpay.records import PayeeRecord
from agentpay.stores.rows.columns import AMOUNT_MAX, INTEGER_MAX, amount, text
from agentpay.stores.rows.payee import changed_used, save_channel, signature
from agentpay.stores.rows.tables import Change


class ChannelSteps:
    """Steps on one channel since it was last saved."""

    __slots__ = ("_before", "_known", "_now", "_touched")

    def __init__(self, before: PayeeRecord | None) -> None:
        self._before = before
        self._now = before
        self._touched: list[int] = []
        running = before.ledger.running if before is not None else ()
        self._known = {id(reservation): reservation for reservation in running}
        """Reservations that were saved or checked: held, so that ids are theirs."""

    def add(
        self, before: PayeeRecord | None, after: PayeeRecord, touched: tuple[int, ...]
    ) -> None:
        """
        Raises:
            InvariantViolated: No database could take it, or the touched amounts do not
                explain it, or it was not decided on the step before. It is not added.
        """
        if before is not self._now:
            raise InvariantViolated(f"steps on {after.channel} are saved out of turn")
        known, running = self._known, after.ledger.running
        fresh = [r for r in running if id(r) not in known]
        _check(before, after, touched, fresh)
        for reservation in fresh:
            known[id(reservation)] = reservation
        self._now = after
        self._touched += touched

    def changes(self) -> list[Change]:
        """What saves them all."""
        if self._now is None:
            return []
        return save_channel(self._before, self._now, tuple(self._touched))


def _check(
    before: PayeeRecord | None,
    after: PayeeRecord,
    touched: tuple[int, ...],
    fresh: Iterable[Reservation],
) -> None:
    """
    What `save_channel` would raise of a step on what was checked, and no rows.

    `fresh` are those that run after it, and were not checked before.

    Raises:
        InvariantViolated: As there.
    """
    if before is None:
        save_channel(before, after, touched)
        return
    ledger = after.ledger
    _check_numbers(after)
    if ledger.held is not before.ledger.held:
        for voucher in ledger.held:
            amount(voucher.amount)
            signature(voucher.signature)
    for reservation in fresh:
        amount(reservation.cumulative)
        amount(reservation.maximum)
        amount(reservation.charged)
        text(reservation.owner)
        text(reservation.resource)
    for cumulative, used in changed_used(before.ledger, ledger, touched)[1]:
        amount(cumulative)
        if used is not None:
            amount(used.charged)


def _check_numbers(record: PayeeRecord) -> None:
    ledger = record.ledger
    amounts = [
        ledger.balance,
        ledger.claimed,
        ledger.pending_withdrawal,
        ledger.charged,
        ledger.highest,
        ledger.floor,
        ledger.closing_voucher or 0,
        record.refund_nonce,
    ]
    if (part := ledger.part) is not None:
        amounts += [part.amount, part.nonce or 0, part.refunded or 0]
        text(part.transaction)
    if min(amounts) < 0 or max(amounts) > AMOUNT_MAX:
        raise InvariantViolated(f"no amounts of a token: {amounts}")
    integers = (
        ledger.window,
        ledger.in_flight_max,
        record.withdrawal_started,
        record.last_voucher_at,
        record.chain_seen_at,
        record.owing_since,
    )
    if min(integers) < -INTEGER_MAX or max(integers) > INTEGER_MAX:
        raise InvariantViolated(f"no store keeps the numbers {integers}")
