"""Names that payers give their payments, as messages carry them."""

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage
from agentpay.wire import payment_identifier as names
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonValue, decode_json, encode_json
from agentpay.wire.x402 import parse_payment
from tests.stores.store_cases import channel, config

GOOD = st.text(string.ascii_letters + string.digits + "-_", min_size=16, max_size=128)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)

# The example of the specification's section "PaymentPayload".
PAYLOAD = write.voucher_payload("voucher", config(), channel(), 1, bytes(65))
EXAMPLE: dict[str, Any] = {
    "payment-identifier": {
        "schema": {"type": "object"},
        "info": {"required": False, "id": "pay_7d5d747be160e280504c099d984bcfe0"},
    }
}


def read(extensions: dict[str, Any]) -> str | None:
    """The name that a payment with these extensions carries."""
    message = {"x402Version": 2, "accepted": {}, "payload": PAYLOAD}
    payment = parse_payment(encode_json({**message, "extensions": extensions}))
    return names.read_name(payment.extensions)


def test_the_specifications_example_is_read() -> None:
    assert read(EXAMPLE) == "pay_7d5d747be160e280504c099d984bcfe0"


@given(GOOD)
def test_a_name_is_read_as_it_was_echoed(name: str) -> None:
    assert read({names.KEY: names.echo(names.offer(), name)}) == name


@given(GOOD, st.dictionaries(st.text(max_size=9), JSON, max_size=4))
def test_an_echo_keeps_what_was_offered(name: str, info: dict[str, Any]) -> None:
    offered: dict[str, Any] = {"info": {**info, "required": True}, "schema": {}}
    echoed = names.echo(offered, name)

    assert echoed == {**offered, "info": {**offered["info"], "id": name}}


@given(st.text(max_size=200))
def test_only_names_of_the_specification_are_taken(name: str) -> None:
    alphabet = set(string.ascii_letters + string.digits + "-_")
    good = 16 <= len(name) <= 128 and set(name) <= alphabet
    try:
        found = read({names.KEY: {"info": {"id": name}}})
    except MalformedMessage:
        assert not good
    else:
        assert good
        assert found == name
    if not good:
        with pytest.raises(ValueError, match="not 16 to 128"):
            names.echo(names.offer(), name)


@given(st.dictionaries(st.just(names.KEY) | st.text(), JSON, max_size=4))
def test_whatever_else_it_looks_like_it_is_no_name(extensions: dict[str, Any]) -> None:
    try:
        assert read(extensions) is None
    except MalformedMessage:
        assert "id" in extensions[names.KEY]["info"]
    assert names.is_required(extensions) in (True, False)


@given(st.dictionaries(st.text(max_size=9), JSON, max_size=5))
def test_a_payments_hash_does_not_depend_on_the_order_of_its_members(
    message: dict[str, JsonValue],
) -> None:
    turned = dict(reversed(message.items()))

    assert names.digest_of(message) == names.digest_of(turned)
    again = decode_json(encode_json({"m": 1}), name="x")
    assert names.digest_of(message) != names.digest_of(
        {**message, "m m m m m m": again}
    )
