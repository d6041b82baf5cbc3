"""Several calls in one, as the compiled contract understands and answers them."""

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm.addresses import MULTICALL3
from agentpay.evm.calls import Call
from agentpay.evm.multicall3_abi import (
    CallResult,
    aggregate_call,
    call_after,
    decode_results,
)
from tests.evm.signed import ADDRESSES, understood

CALLS = st.builds(Call, to=ADDRESSES, data=st.binary(max_size=100), what=st.just("x"))
RESULTS = st.builds(CallResult, succeeded=st.booleans(), answer=st.binary(max_size=100))


@given(st.lists(CALLS, max_size=8), st.booleans())
def test_calls_are_understood_in_their_order(calls: list[Call], may_fail: bool) -> None:
    call = aggregate_call(calls, may_fail=may_fail)
    expected = tuple((one.to, may_fail, one.data) for one in calls)

    assert call.to == MULTICALL3
    assert understood("Multicall3", call) == ("aggregate3", {"calls": expected})


@given(CALLS, CALLS)
def test_only_the_first_of_two_calls_may_fail(first: Call, then: Call) -> None:
    expected = (first.to, True, first.data), (then.to, False, then.data)
    understood_as = ("aggregate3", {"calls": expected})

    assert understood("Multicall3", call_after(first, then)) == understood_as


@given(st.lists(RESULTS, max_size=8))
def test_k7_each_result_is_told_apart(results: list[CallResult]) -> None:
    rows = [(result.succeeded, result.answer) for result in results]
    answer = encode(["(bool,bytes)[]"], [rows])

    assert decode_results(answer, len(results)) == results
    with pytest.raises(ValueError, match="results of"):
        decode_results(answer, len(results) + 1)


@given(st.binary(max_size=200), st.integers(1, 5))
def test_any_other_bytes_are_refused(answer: bytes, count: int) -> None:
    try:
        results = decode_results(answer, count)
    except ValueError:
        return

    assert len(results) == count


def test_a_chain_without_the_contract_is_noticed() -> None:
    with pytest.raises(ValueError, match="not at its address"):
        decode_results(b"", 1)
