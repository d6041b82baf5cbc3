"""Who waits has a turn before anybody has two, whoever comes and goes meanwhile."""

from hypothesis import given
from hypothesis import strategies as st

from agentpay.payee.turns import Turns
from agentpay.types import Hash32

CHANNELS = [Hash32.of(bytes([number]) * 32) for number in range(1, 9)]
ROUNDS = st.lists(
    st.tuples(st.sets(st.sampled_from(CHANNELS)), st.integers(1, 3)), max_size=30
)


@given(rounds=ROUNDS)
def test_k7_who_stays_in_line_has_a_turn_before_others_have_two(
    rounds: list[tuple[set[Hash32], int]],
) -> None:
    turns = Turns()
    passed: dict[Hash32, list[Hash32]] = {}
    for wanting, many in rounds:
        line = turns.line_up(sorted(wanting))
        passed = {each: passed.get(each, []) for each in wanting}
        for chosen in line[:many]:
            turns.had(chosen)
            for each, before in passed.items():
                before.append(chosen) if each != chosen else before.clear()

        assert sorted(line) == sorted(wanting)
        assert all(len(set(before)) == len(before) for before in passed.values())


@given(rounds=ROUNDS)
def test_nobody_is_remembered_who_wants_nothing_any_more(
    rounds: list[tuple[set[Hash32], int]],
) -> None:
    turns = Turns()
    for wanting, many in rounds:
        for chosen in turns.line_up(wanting)[:many]:
            turns.had(chosen)

        assert len(turns) == len(wanting)
