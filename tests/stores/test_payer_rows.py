"""What saves a payer's channel are the rows that changed, and no others."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agentpay.stores.rows.payer import SIGNED, save_channel
from agentpay.stores.rows.tables import Cut, Put
from tests.stores.store_cases import ACCOUNT, payer_record

amounts = st.sets(st.integers(1, 40), max_size=20)
windows = st.one_of(
    st.tuples(amounts, amounts),
    # As a window moves: the lowest go, and higher ones come.
    st.tuples(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20)).map(
        lambda at: (
            set(range(at[0], at[0] + at[1])),
            set(range(at[0] + at[2], at[0] + at[1] + at[2])),
        )
    ),
)


@given(windows)
def test_signed_amounts_are_saved_where_they_differ(
    sets: tuple[set[int], set[int]],
) -> None:
    before, after = (
        replace(record, ledger=replace(record.ledger, signed=tuple(sorted(signed))))
        for record, signed in zip([payer_record()] * 2, sets, strict=True)
    )
    changes = save_channel(ACCOUNT, before, after)
    cut = [c.key[-1] for c in changes if isinstance(c, Cut) and c.table is SIGNED]
    put = [c.row[-1] for c in changes if isinstance(c, Put) and c.table is SIGNED]

    assert len(cut) == len(set(cut))
    assert set(cut) == sets[0] - sets[1]
    assert len(put) == len(set(put))
    assert set(put) == sets[1] - sets[0]
