"""`Payment-Voucher` says what became of one voucher, and nothing else is read as it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage
from agentpay.types import UINT128_MAX, Hash32
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.encoding import encode_object
from agentpay.wire.mpp.outcome import format_outcome, parse_outcome, session_outcome

CHANNEL = Hash32("0x" + "ab" * 32)
AMOUNTS = st.integers(0, UINT128_MAX)


@given(
    cumulative=AMOUNTS,
    fate=st.sampled_from(["charged", "running", "void", "old"]),
    charged=AMOUNTS,
    spent=AMOUNTS,
    repeated=st.booleans(),
)
def test_what_is_written_is_what_is_read(
    cumulative: int, fate: str, charged: int, spent: int, repeated: bool
) -> None:
    written = session_outcome(
        CHANNEL, cumulative, fate, charged=charged, spent=spent, repeated=repeated
    )
    read = parse_outcome(format_outcome(written))

    assert (read.channel_id, read.cumulative, read.fate) == (CHANNEL, cumulative, fate)
    assert (read.charged, read.spent, read.repeated) == (charged, spent, repeated)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cumulative": None},
        {"cumulative": 5},
        {"cumulative": "-5"},
        {"charged": "1.5"},
        {"channelId": "0xabc"},
        {"fate": None},
        {"spent": str(UINT128_MAX + 1)},
        {"repeated": "yes"},
    ],
)
def test_what_says_nothing_of_a_voucher_is_malformed(wrong: JsonObject) -> None:
    written = session_outcome(CHANNEL, 5, "charged", spent=5)

    with pytest.raises(MalformedMessage, match="Payment-Voucher"):
        parse_outcome(encode_object({**written, **wrong}))
