"""402s of x402's first version, read by a client."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage
from agentpay.types import Address, ChainId
from agentpay.wire.headers import decode_json
from agentpay.wire.x402_v1_pay import first_payment, read_required
from tests.wire.test_payment_identifier import JSON

# The example of the specification's section 5.1.1.
ENTRY: dict[str, Any] = {
    "scheme": "exact",
    "network": "base-sepolia",
    "maxAmountRequired": "10000",
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "resource": "https://api.example.com/premium-data",
    "description": "Access to premium market data",
    "mimeType": "application/json",
    "outputSchema": None,
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2"},
}
EXAMPLE: dict[str, Any] = {
    "x402Version": 1,
    "error": "X-PAYMENT header is required",
    "accepts": [ENTRY],
}


def body(message: Any) -> bytes:
    return json.dumps(message).encode()


def test_the_specifications_example_is_read() -> None:
    first = read_required(body(EXAMPLE))
    ((offer, words),) = first.required.readable_offers()

    assert (offer.scheme, offer.network, offer.amount) == ("exact", 84532, 10_000)
    assert offer.asset == Address(ENTRY["asset"].lower())
    assert offer.pay_to == Address(ENTRY["payTo"].lower())
    assert offer.max_timeout_seconds == 60
    assert offer.extra["name"] == "USDC"
    assert first.name_of(words) == "base-sepolia"
    assert first.required.resource is not None
    assert first.required.resource.url == ENTRY["resource"]
    assert first.required.error == EXAMPLE["error"]


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"network": "solana"}, 0),
        ({"network": "eip155:84532"}, 1),
        ({"network": 84532}, 0),
        ({"scheme": "upto"}, 0),
        ({"maxAmountRequired": 10_000}, 0),
        ({"payTo": "nobody"}, 0),
        ({"extra": None}, 1),
    ],
)
def test_what_cannot_be_paid_is_left_out(change: dict[str, Any], kept: int) -> None:
    first = read_required(body({**EXAMPLE, "accepts": [{**ENTRY, **change}]}))

    assert len(first.required.readable_offers()) == kept


def test_c5_an_offer_for_another_resource_than_the_first_is_left_out() -> None:
    other = {**ENTRY, "resource": "https://bank.example/", "maxAmountRequired": "1"}
    first = read_required(body({**EXAMPLE, "accepts": [ENTRY, other]}))

    assert [o.amount for o, _ in first.required.readable_offers()] == [10_000]


@pytest.mark.parametrize("junk", [None, True, 7, 0.5, "x", [], [ENTRY]])
def test_c17_what_is_no_offer_spoils_none_of_the_others(junk: object) -> None:
    first = read_required(body({**EXAMPLE, "accepts": [junk, ENTRY, junk]}))
    ((offer, words),) = first.required.readable_offers()

    assert (offer.amount, first.name_of(words)) == (10_000, "base-sepolia")
    assert first.required.resource is not None
    assert first.required.resource.url == ENTRY["resource"]


def test_an_offer_is_named_as_it_named_its_chain() -> None:
    named = {**ENTRY, "network": "eip155:84532", "maxAmountRequired": "7"}
    first = read_required(body({**EXAMPLE, "accepts": [ENTRY, named]}))
    names = {o.amount: first.name_of(w) for o, w in first.required.readable_offers()}

    assert names == {10_000: "base-sepolia", 7: "eip155:84532"}


@pytest.mark.parametrize(
    "message",
    [
        {},
        [],
        None,
        {"x402Version": 2, "accepts": [ENTRY]},
        {"x402Version": True, "accepts": [ENTRY]},
        {"x402Version": "1", "accepts": [ENTRY]},
        {"x402Version": 1},
        {"x402Version": 1, "accepts": {}},
        {**EXAMPLE, "accepts": [{**ENTRY, "resource": 7}]},
    ],
)
def test_c16_any_other_body_is_no_402_of_ours(message: Any) -> None:
    with pytest.raises(MalformedMessage):
        read_required(body(message))


@given(st.binary(max_size=200) | JSON.map(body))
def test_c17_a_body_is_read_or_refused_in_a_typed_way(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read_required(raw)


@given(st.dictionaries(st.sampled_from([*ENTRY]), JSON))
def test_c17_a_strange_offer_is_left_out_or_whole(change: dict[str, Any]) -> None:
    try:
        first = read_required(body({**EXAMPLE, "accepts": [{**ENTRY, **change}]}))
    except MalformedMessage:
        return
    for offer, words in first.required.readable_offers():
        assert offer.network == ChainId(84532)
        assert first.name_of(words) in ("base-sepolia", "eip155:84532")


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_a_payment_says_its_version_scheme_and_network(payload: dict[str, Any]) -> None:
    assert decode_json(first_payment("base", payload), name="X-PAYMENT") == {
        "x402Version": 1,
        "scheme": "exact",
        "network": "base",
        "payload": payload,
    }
