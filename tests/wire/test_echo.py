"""What a payment says back of the extensions that its 402 offered."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentpay.wire import offer_receipt, parallel, sign_in
from agentpay.wire.echo import BYTES_MAX, echo
from agentpay.wire.headers import JsonObject, JsonValue
from tests.wire.test_payment_identifier import JSON

INFO = st.dictionaries(st.text(max_size=9), JSON, max_size=4)
WORDS = st.fixed_dictionaries({"info": INFO}, optional={"schema": INFO})
OFFERED = st.dictionaries(st.text(max_size=9), WORDS | JSON, max_size=6)


def _info(words: JsonValue) -> JsonObject:
    info = words.get("info") if isinstance(words, dict) else None
    return info if isinstance(info, dict) else {}


@given(OFFERED, st.dictionaries(st.text(max_size=9), WORDS, max_size=3))
def test_all_that_was_received_comes_back_and_only_ours_is_added(
    offered: dict[str, Any], ours: dict[str, Any]
) -> None:
    said: Any = echo(offered, ours)

    for name in set(said) - set(ours):
        assert said[name].get("info") == offered[name].get("info")
    for name, words in ours.items():
        assert said[name]["info"] == {**_info(offered.get(name)), **words["info"]}
    assert set(said) <= set(offered) | set(ours)


@given(OFFERED)
def test_what_fits_is_echoed_as_it_came(offered: dict[str, Any]) -> None:
    said = echo(offered, {})
    kept = dict(filter(lambda item: isinstance(item[1], dict), offered.items()))

    if len(json.dumps(kept)) < BYTES_MAX:
        assert said == kept


def test_what_does_not_fit_goes_without_its_schema_or_not_at_all() -> None:
    info: Any = {"a": "x" * 2000}
    large: Any = {"info": info, "schema": {"b": "y" * 3000}}
    huge: Any = {"info": {"a": "x" * 5000}}

    assert echo({"large": large}, {}) == {"large": {"info": info}}
    assert echo({"huge": huge, "large": large}, {}) == {"large": {"info": info}}
    assert echo({str(n): large for n in range(9)}, {}) == {"0": {"info": info}} | {
        "1": {"info": info}
    }


def test_what_has_its_own_place_is_not_said_twice() -> None:
    names = (offer_receipt.KEY, parallel.KEY, sign_in.KEY)

    assert echo({name: {"info": {}} for name in names}, {}) == {}
