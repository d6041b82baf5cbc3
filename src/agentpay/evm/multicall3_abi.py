"""
Multicall3: several calls in one transaction or one read, each of which may fail alone.

It calls as itself: only calls that anybody may send belong here, and nothing may ever
be approved for it. Source: the deployed contract's `aggregate3`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from agentpay.evm.addresses import MULTICALL3
from agentpay.evm.calls import Call
from agentpay.evm.hashing import selector

_AGGREGATE: Final = selector("aggregate3((address,bool,bytes)[])")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """What became of one call: its answer, or the reason of its revert."""

    succeeded: bool
    answer: bytes


def aggregate_call(calls: Sequence[Call], *, may_fail: bool = True) -> Call:
    """Several calls in one; without `may_fail`, all or none."""
    rows = [(call.to, may_fail, call.data) for call in calls]
    data = _AGGREGATE + encode(["(address,bool,bytes)[]"], [rows])
    return Call(to=MULTICALL3, data=data, what=f"make {len(calls)} calls")


def call_after(first: Call, then: Call) -> Call:
    """`then` right after `first`, which may fail; all of it fails where `then` does."""
    rows = [(first.to, True, first.data), (then.to, False, then.data)]
    data = _AGGREGATE + encode(["(address,bool,bytes)[]"], [rows])
    return Call(to=MULTICALL3, data=data, what=f"{first.what} and {then.what}")


def is_aggregate(data: bytes) -> bool:
    """Whether a transaction's input is several calls in one."""
    return data.startswith(_AGGREGATE)


def decode_results(answer: bytes, count: int) -> list[CallResult]:
    """
    Read the answer to an `aggregate_call` of `count` calls, in their order.

    A transaction has no answer: simulate it, or read its logs.

    Raises:
        ValueError: It is not an answer to so many calls.
    """
    try:
        (rows,) = decode(["(bool,bytes)[]"], answer)
    except (DecodingError, OverflowError) as error:
        raise ValueError("Multicall3 is not at its address on this chain") from error
    if len(rows) != count:
        raise ValueError(f"{len(rows)} results of {count} calls")
    return [CallResult(succeeded=success, answer=data) for success, data in rows]
