"""Accept-Payment: the examples of the draft, and what holds of every other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.wire.mpp.preference import (
    PaymentRange,
    format_accept_payment,
    parse_accept_payment,
    rank,
)

methods = st.sampled_from(["evm", "tempo", "stripe", "x402:a_b-c"])
intents = st.sampled_from(["charge", "session", "Other-1"])
ranges = st.builds(
    PaymentRange,
    method=methods | st.just("*"),
    intent=intents | st.just("*"),
    thousandths=st.integers(0, 1000),
)
offers = st.lists(st.tuples(methods, intents), max_size=6)


def order(header: str, *names: str) -> list[str]:
    made = [(method, intent) for method, _, intent in (n.partition("/") for n in names)]
    found = rank(parse_accept_payment([header]), made)
    return [names[index] for index in found]


@given(st.lists(ranges, min_size=1, max_size=5))
def test_preferences_come_back(sent: list[PaymentRange]) -> None:
    assert parse_accept_payment([format_accept_payment(sent)]) == tuple(sent)
    assert parse_accept_payment(
        [format_accept_payment([one]) for one in sent]
    ) == tuple(sent)


def test_weights_are_read_exactly() -> None:
    found = parse_accept_payment(["a/b;q=0.3 ,\tc/* ; Q=1.000, */*;q=0.,, d/e;q=0.125"])

    assert [entry.thousandths for entry in found] == [300, 1000, 0, 125]


def test_the_examples_of_the_draft_are_ranked_as_it_says() -> None:
    offered = ("stripe/charge", "tempo/session", "solana/charge", "tempo/charge")

    assert order("tempo/*, solana/*;q=0.6, stripe/charge;q=0.2", *offered) == [
        "tempo/session",
        "tempo/charge",
        "solana/charge",
        "stripe/charge",
    ]
    assert order(
        "tempo/charge, tempo/session;q=0, solana/charge;q=0.8, stripe/charge;q=0.4",
        *offered,
    ) == ["tempo/charge", "solana/charge", "stripe/charge"]


def test_the_most_specific_range_counts() -> None:
    header = "*/*;q=0.1, */session;q=0.2, evm/*;q=0.9, evm/session;q=0"

    assert order(header, "x/charge", "x/session", "evm/session", "evm/charge") == [
        "evm/charge",
        "x/session",
        "x/charge",
    ]


def test_if_nothing_is_liked_everything_is_offered() -> None:
    assert order("tempo/charge, */*;q=0", "evm/charge", "evm/session") == [
        "evm/charge",
        "evm/session",
    ]


@given(st.lists(ranges, max_size=5), offers)
def test_what_is_offered_is_liked_and_in_order(
    liked: list[PaymentRange], made: list[tuple[str, str]]
) -> None:
    found = rank(liked, made)

    assert len(set(found)) == len(found)
    assert bool(found) == bool(made)
    weights = [
        max((r.thousandths for r in liked if r.covers(*made[index])), default=0)
        for index in found
    ]
    assert all(weights) or set(found) == set(range(len(made)))


@given(st.lists(ranges, max_size=5), offers)
def test_equally_liked_offers_stay_in_the_servers_order(
    liked: list[PaymentRange], made: list[tuple[str, str]]
) -> None:
    twice = made * 2
    found = rank(liked, twice)

    for offer in made:
        same = [index for index in found if twice[index] == offer]
        assert same == sorted(same)


@pytest.mark.parametrize(
    "header",
    [
        "",
        " , ",
        "evm",
        "evm/",
        "/charge",
        "evm/charge/x",
        "EVM/charge",
        "é/x",
        "evm/charge;q=2",
        "evm/charge;q=0.1234",
        "evm/charge;q=1.1",
        "evm/charge;v=1",
        "evm/charge;q=",
    ],
)
def test_a_malformed_preference_is_told(header: str) -> None:
    with pytest.raises(MalformedMessage, match="Accept-Payment"):
        parse_accept_payment([header])


def test_too_long_a_preference_is_refused() -> None:
    with pytest.raises(MessageTooLarge):
        parse_accept_payment(["evm/charge," * 1000])
