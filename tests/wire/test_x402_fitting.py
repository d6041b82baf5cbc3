"""402s that are too long for a header go without schemas, in a fixed order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.wire.headers import JsonObject, JsonValue, decode_json, encode_json
from agentpay.wire.x402_fitting import BYTES_MAX, IN_ORDER, fit_required

NAMES = st.sampled_from((*IN_ORDER, "x-unknown"))
EXTENSIONS = st.dictionaries(
    NAMES,
    st.fixed_dictionaries(
        {"info": st.integers(0, 1500).map(lambda size: {"text": "i" * size})},
        optional={"schema": st.integers(0, 3000).map(lambda size: {"$id": "s" * size})},
    ),
)


def with_schema(message: JsonObject) -> list[str]:
    extensions = message.get("extensions")
    if not isinstance(extensions, dict):
        return []
    return [n for n, e in extensions.items() if isinstance(e, dict) and "schema" in e]


def without_schemas(message: JsonObject) -> JsonObject:
    extensions = message["extensions"]
    assert isinstance(extensions, dict)
    left: JsonObject = {
        name: {k: v for k, v in words.items() if k != "schema"}
        for name, words in extensions.items()
        if isinstance(words, dict)
    }
    return {**message, "extensions": left}


@given(EXTENSIONS)
def test_a_402_loses_schemas_in_order_no_more_than_it_must_and_nothing_else(
    extensions: dict[str, JsonValue],
) -> None:
    whole: JsonObject = {"x402Version": 2, "extensions": extensions}
    before = encode_json(whole)
    sent, header = fit_required(whole)
    lost = [name for name in with_schema(whole) if name not in with_schema(sent)]
    mine = [name for name in IN_ORDER if name in with_schema(whole)]

    assert encode_json(whole) == before
    assert decode_json(header, name="it") == sent
    assert without_schemas(sent) == without_schemas(whole)
    assert sorted(lost) == sorted(mine[: len(lost)])
    if len(header) > BYTES_MAX:
        assert lost == [] if not mine else len(lost) == len(mine)
    if lost:
        last = mine[len(lost) - 1]
        offered = sent["extensions"]
        assert isinstance(offered, dict)
        longer = {**offered, last: extensions[last]}
        assert len(encode_json({**sent, "extensions": longer})) > BYTES_MAX


@pytest.mark.parametrize("extensions", [None, 7, [], {"bazaar": None, "x": "y"}])
def test_a_402_that_cannot_be_shortened_is_sent_as_it_is(extensions: JsonValue) -> None:
    message: JsonObject = {"error": "e" * BYTES_MAX, "extensions": extensions}

    assert fit_required(message) == (message, encode_json(message))
