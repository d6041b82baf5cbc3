"""What is made of samples: medians and ratios, whatever was not measured."""

import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.__main__ import read
from bench.check import MARGIN, compare
from bench.goals import LIMITS, RATIOS, outcomes, ratios
from bench.measure import Sample, Spread, cpu_seconds, percentile
from bench.plot import svg
from bench.report import CLOSES, OPENS, markdown, put_summary, summary
from bench.rows import AGENTPAY, FREE, MANY, OURS, SIGN, THEIRS, VERIFY, rows

ROOT = Path(__file__).parents[2]
FACTS = {"when": "now", "machine": "this", "repetitions": "1", "load": "0"}


def a_sample(case: str, variant: str, *, seconds: float = 1.0) -> Sample:
    return Sample(
        case=case,
        variant=variant,
        asked=100,
        answered=100,
        seconds=seconds,
        cpu=seconds / 2,
        p50_ms=1,
        p99_ms=2,
        load_average=0,
    )


def every_sample() -> list[Sample]:
    return [a_sample(row.case, row.variant) for row in rows(1)]


@given(st.lists(st.floats(0, 1000), min_size=1))
def test_a_median_lies_within_its_spread(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread.least <= spread.median <= spread.most


@given(st.lists(st.floats(0, 10), max_size=50), st.floats(0, 1))
def test_a_percentile_is_one_of_the_latencies(values: list[float], p: float) -> None:
    found = percentile(values, p)
    assert found in ({round(v * 1000, 3) for v in values} or {0.0})


def test_our_own_cpu_time_never_goes_back() -> None:
    before = cpu_seconds(os.getpid())
    assert sum(range(200_000)) > 0
    assert cpu_seconds(os.getpid()) >= before


def test_every_goal_has_its_figures_among_the_cases() -> None:
    assert set(ratios(every_sample())) == {ratio.name for ratio in RATIOS}
    assert len(list(outcomes(every_sample()))) == len(RATIOS) + len(LIMITS)


def test_a_goal_that_is_missed_is_said_to_be() -> None:
    quick, slow = (
        list(outcomes([a_sample(VERIFY, AGENTPAY, seconds=seconds)]))
        for seconds in (0.01, 0.02)
    )
    assert [(one.measured, one.met) for one in quick] == [("50.0 µs", True)]
    assert [(one.measured, one.met) for one in slow] == [("100.0 µs", False)]


def test_what_is_no_goal_is_neither_met_nor_missed() -> None:
    table = markdown(
        [a_sample(SIGN, THEIRS), a_sample(SIGN, AGENTPAY, seconds=2)], FACTS
    )
    assert "| signing a voucher, against x402 with coincurve | 0.5 |  |  |" in table


def test_the_readme_keeps_all_but_what_was_measured() -> None:
    said = summary(every_sample(), FACTS)
    before = f"# agentpay\n\n{OPENS}\nold\n{CLOSES}\n\n## More\n"
    after = put_summary(before, said)
    assert after.startswith("# agentpay\n\n")
    assert after.endswith("\n\n## More\n")
    assert "old" not in after
    assert put_summary(after, said) == after


def test_a_readme_without_a_place_for_it_is_not_touched() -> None:
    with pytest.raises(ValueError, match="no place"):
        put_summary("# agentpay", summary([], FACTS))


def test_the_readme_says_what_the_last_run_measured() -> None:
    readme, run = (ROOT / "README.md").read_text(), ROOT / "bench" / "results.json"
    if not run.exists():
        assert f"{OPENS}\n\nNothing yet.\n\n{CLOSES}" in readme
        return
    said = summary(*read(json.loads(run.read_text())))
    assert put_summary(readme, said) == readme


def test_no_case_is_measured_twice_under_one_name() -> None:
    named = [(row.case, row.variant) for row in rows(1)]
    assert len(named) == len(set(named))


def test_a_ratio_compares_medians() -> None:
    paid = [a_sample(MANY, OURS, seconds=s) for s in (2, 4, 100)]
    found = ratios([*paid, a_sample(MANY, FREE, seconds=1)])
    assert list(found.values()) == [0.25]


def test_what_was_not_measured_is_left_out_of_table_and_plot() -> None:
    table = markdown([a_sample(MANY, OURS)], FACTS)
    assert table.count(MANY) == 1
    assert "None" not in table
    assert svg([]).startswith("<svg ")
    assert "whole client" not in svg([a_sample(MANY, OURS)])


def test_the_plot_is_xml_with_a_bar_for_each_variant_it_shows() -> None:
    drawn = ET.fromstring(svg([a_sample(MANY, OURS), a_sample(MANY, FREE)]))  # noqa: S314
    bars = [part for part in drawn if part.tag.endswith("rect")]
    assert len(bars) == 1 + 2  # the background too


def test_a_ratio_is_pointed_out_only_beyond_the_margin() -> None:
    names = [ratio.name for ratio in RATIOS]
    before = dict.fromkeys(names, 4.0)
    now = {**before, names[0]: 4 * (1 - MARGIN) - 0.1, names[1]: 4 * (1 - MARGIN) + 0.1}
    lines = list(compare(now, before))
    assert [line.startswith("WORSE") for line in lines[:3]] == [True, False, False]


def test_a_ratio_of_which_less_is_better_is_worse_with_more() -> None:
    (name, *_) = [ratio.name for ratio in RATIOS if ratio.most is not None]
    more, less = (
        [line for line in compare({name: now}, {name: 1.0}) if name in line]
        for now in (2.0, 0.5)
    )
    assert [line.split()[0] for line in (*more, *less)] == ["WORSE", "better"]


def test_a_ratio_that_one_run_lacks_is_said_to_be_missing() -> None:
    lines = list(compare({}, {RATIOS[0].name: 4.0}))
    assert all(line.startswith("?") for line in lines)
