"""Messages with everything filled in that a test does not care about."""

from hypothesis import strategies as st

from agentpay.types import UINT128_MAX, UINT256_MAX, Address, ChainId, Hash32
from agentpay.wire.headers import JsonValue
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.encoding import encode_object
from agentpay.wire.mpp.timestamps import format_time

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
filled = texts.filter(bool)
values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)
addresses = st.binary(min_size=20, max_size=20).map(lambda b: Address("0x" + b.hex()))
hashes = st.binary(min_size=32, max_size=32).map(Hash32.of)
signatures = st.binary(max_size=100)
uint128 = st.integers(0, UINT128_MAX)
uint256 = st.integers(0, UINT256_MAX)
chains = st.integers(1, 2**53 - 1).map(ChainId)
moments = st.integers(0, 253_402_300_799)

challenges = st.builds(
    Challenge,
    id=filled,
    realm=filled,
    method=st.from_regex(r"[a-z][a-z0-9:_-]{0,9}", fullmatch=True),
    intent=st.from_regex(r"[A-Za-z0-9-]{1,9}", fullmatch=True),
    request=objects.map(encode_object),
    description=st.none() | texts,
    digest=st.none() | texts,
    expires=st.none() | moments.map(format_time),
    header=st.none() | st.just("Payment-Authorization"),
    opaque=st.none() | texts,
)

CHALLENGE = Challenge(
    id="ch_1",
    realm="api.example.com",
    method="evm",
    intent="charge",
    request=encode_object({"amount": "1000"}),
    expires="2026-01-29T12:05:00Z",
)
