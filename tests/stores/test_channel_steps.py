"""Steps that are saved together are checked one by one, and saved as one by one."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpay.core.payee_channel import (
    Fate,
    HeldVoucher,
    PartRefund,
    Reservation,
    Used,
)
from agentpay.core.session_rules import SessionEvent
from agentpay.errors import InvariantViolated
from agentpay.records import PayeeRecord
from agentpay.stores.rows.channel_steps import ChannelSteps
from agentpay.stores.rows.payee import save_channel
from agentpay.stores.rows.tables import Batch, Change, Columns
from tests.stores.store_cases import happens, payee_record, session_events

Rows = dict[str, dict[Columns, Columns]]

kinds = st.builds(payee_record, tagged=st.booleans(), session=st.booleans())
histories = st.lists(session_events(), max_size=25)
cuts = st.lists(st.booleans(), min_size=25, max_size=25)


def written(rows: Rows, groups: Iterable[Iterable[Change]]) -> Rows:
    """What tables hold, in their order, once each group was written to them."""
    for changes in groups:
        batch = Batch()
        batch.add(changes)
        for table, cut, put in batch.tables():
            kept = rows.setdefault(table.name, {})
            for key in cut:
                kept.pop(key, None)
            for row in put:
                kept[row[: table.keys]] = row
    return rows


def listed(rows: Rows) -> dict[str, list[Columns]]:
    """As they are read: what was used by its amount, all else as it was written."""
    found = {name: list(kept.values()) for name, kept in rows.items() if kept}
    if used := found.get("payee_used"):
        found["payee_used"] = sorted(used, key=lambda row: row[:2])
    return found


@given(kinds, histories, cuts)
def test_steps_saved_together_leave_the_rows_that_each_alone_would(
    record: PayeeRecord, events: list[SessionEvent], cuts: list[bool]
) -> None:
    each = [save_channel(None, record, ())]
    steps = ChannelSteps(None)
    steps.add(None, record, ())
    together = [steps.changes()]
    steps = ChannelSteps(record)
    for event, cut in zip(events, cuts, strict=False):
        try:
            step = happens(event)(record)
        except InvariantViolated:
            continue
        if step.record is None or step.record is record:
            continue
        each.append(save_channel(record, step.record, step.touched))
        steps.add(record, step.record, step.touched)
        record = step.record
        if cut:
            together.append(steps.changes())
            steps = ChannelSteps(record)
    together.append(steps.changes())

    assert listed(written({}, together)) == listed(written({}, each))


few = st.integers(0, 3)
amounts = few | few | st.sampled_from([-1, 2**256 - 1, 2**256])
integers = few | few | st.sampled_from([2**63 - 1, 2**63, -(2**63), 1 - 2**63])
texts = st.sampled_from(["us", "them", "/zwei/ü\x00", "half \ud800"])
reservations = st.builds(
    Reservation,
    cumulative=amounts,
    maximum=few.map(lambda more: 2 + more) | st.just(2**256),
    charged=st.integers(0, 2),
    prepaid=st.booleans(),
    owner=texts,
    resource=texts,
)
held = st.builds(
    HeldVoucher,
    amount=amounts,
    signature=st.binary(max_size=3) | st.sampled_from([bytes(65_535), bytes(65_536)]),
)
used = st.builds(
    Used, cumulative=amounts, fate=st.sampled_from(list(Fate)), charged=amounts
)
windows = st.lists(used, max_size=4, unique_by=lambda u: u.cumulative).map(
    lambda found: tuple(sorted(found, key=lambda u: u.cumulative))
)
changes: dict[str, st.SearchStrategy[Any]] = {
    "window": integers,
    "in_flight_max": integers,
    "balance": amounts,
    "claimed": amounts,
    "pending_withdrawal": amounts,
    "charged": amounts,
    "highest": amounts,
    "floor": amounts,
    "closing_voucher": st.none() | amounts,
    "part": st.none()
    | st.builds(
        PartRefund,
        amount=amounts,
        nonce=st.none() | amounts,
        refunded=st.none() | amounts,
        transaction=texts,
    ),
    "running": st.lists(reservations, max_size=3).map(tuple),
    "held": st.lists(held, max_size=2).map(tuple),
    "used": windows,
}
of_records: dict[str, st.SearchStrategy[Any]] = {
    "refund_nonce": amounts,
    "withdrawal_started": integers,
    "last_voucher_at": integers,
    "chain_seen_at": integers,
    "owing_since": integers,
}


def some_of(
    fields: dict[str, st.SearchStrategy[Any]],
) -> st.SearchStrategy[dict[str, Any]]:
    """Values for two of these at most: most steps can be saved, or all but for one."""
    names = st.lists(st.sampled_from(list(fields)), max_size=2, unique=True)
    return names.flatmap(
        lambda chosen: st.fixed_dictionaries({name: fields[name] for name in chosen})
    )


def is_refused(
    before: PayeeRecord, after: PayeeRecord, touched: tuple[int, ...]
) -> bool:
    """Whether rows cannot be made of a step."""
    try:
        save_channel(before, after, touched)
    except InvariantViolated:
        return True
    return False


Step = tuple[PayeeRecord, PayeeRecord, tuple[int, ...]]


@st.composite
def steps_of_any_kind(draw: st.DrawFn) -> Step:
    """What could be saved, what comes after it, and which amounts that names."""
    before = payee_record()
    known = draw(windows)
    running = tuple(draw(st.lists(reservations, max_size=3)))
    first = replace(before, ledger=replace(before.ledger, running=running, used=known))
    if not is_refused(before, first, tuple(u.cumulative for u in known)):
        before = first
    changed: dict[str, Any] = draw(some_of(changes))
    if draw(st.booleans()):
        changed["running"] = before.ledger.running[1:]
    of_record: dict[str, Any] = draw(some_of(of_records))
    after = replace(before, ledger=replace(before.ledger, **changed), **of_record)
    touched = tuple(draw(st.lists(st.integers(-1, 3), max_size=4)))
    return before, after, touched


@settings(max_examples=300)
@given(steps_of_any_kind())
def test_a_step_is_refused_alone_where_no_rows_can_be_made_of_it(step: Step) -> None:
    before, after, touched = step
    if is_refused(before, after, touched):
        with pytest.raises(InvariantViolated):
            ChannelSteps(before).add(before, after, touched)
    else:
        ChannelSteps(before).add(before, after, touched)


TOO_MUCH = 2**256
RUNS = Reservation(
    cumulative=1, maximum=1, charged=1, prepaid=True, owner="us", resource="/one"
)
USES = Used(cumulative=1, fate=Fate.CHARGED, charged=1)
OF_TIME = ("last_voucher_at", "chain_seen_at", "owing_since")
UNSAVEABLE: list[dict[str, Any]] = [
    *({name: -1} for name in ("balance", "claimed", "charged", "floor")),
    *({name: TOO_MUCH} for name in ("highest", "closing_voucher", "refund_nonce")),
    *({name: 2**63} for name in ("window", "in_flight_max")),
    *({name: -(2**63)} for name in OF_TIME),
    {"withdrawal_started": 2**63},
    {"pending_withdrawal": TOO_MUCH},
    {"part": PartRefund(amount=TOO_MUCH)},
    {"part": PartRefund(amount=1, nonce=-1)},
    {"part": PartRefund(amount=1, refunded=TOO_MUCH)},
    {"part": PartRefund(amount=1, transaction="half \ud800")},
    {"held": (HeldVoucher(amount=TOO_MUCH, signature=b""),)},
    {"held": (HeldVoucher(amount=1, signature=bytes(65_536)),)},
    {"used": (replace(USES, cumulative=TOO_MUCH),)},
    {"used": (replace(USES, charged=TOO_MUCH),)},
    {"used": (USES, replace(USES, cumulative=2))},
    {"running": (replace(RUNS, cumulative=TOO_MUCH),)},
    {"running": (replace(RUNS, maximum=TOO_MUCH),)},
    {"running": (RUNS, replace(RUNS, owner="half \ud800"))},
    {"running": (RUNS, replace(RUNS, resource="half \ud800"))},
]


@pytest.mark.parametrize("changed", UNSAVEABLE, ids=repr)
def test_what_no_database_could_take_is_refused_before_it_is_added(
    changed: dict[str, Any],
) -> None:
    before = payee_record()
    of_record = {n: v for n, v in changed.items() if n in of_records}
    of_ledger = {n: v for n, v in changed.items() if n not in of_records}
    after = replace(before, ledger=replace(before.ledger, **of_ledger), **of_record)
    touched = (changed["used"][0].cumulative,) if "used" in changed else ()

    assert is_refused(before, after, touched)
    with pytest.raises(InvariantViolated):
        ChannelSteps(before).add(before, after, touched)


def test_a_step_that_was_refused_is_not_among_those_that_are_saved() -> None:
    record = payee_record()
    steps = ChannelSteps(record)
    charged = replace(record, ledger=replace(record.ledger, highest=7, charged=7))
    steps.add(record, charged, ())
    with pytest.raises(InvariantViolated, match="amount"):
        steps.add(charged, replace(charged, refund_nonce=2**256), ())

    assert steps.changes() == save_channel(record, charged, ())


def test_a_step_that_was_decided_on_another_is_refused() -> None:
    record = payee_record()
    steps = ChannelSteps(record)
    steps.add(record, replace(record, refund_nonce=1), ())

    with pytest.raises(InvariantViolated, match="out of turn"):
        steps.add(record, replace(record, refund_nonce=2), ())
