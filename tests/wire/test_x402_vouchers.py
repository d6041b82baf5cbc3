"""The fast reader of vouchers says what `parse_payment` says, of whatever it reads."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage
from agentpay.wire.headers import HEADER_BYTES_MAX, encode_json
from agentpay.wire.x402 import PaymentPayload, VoucherPayload, parse_payment
from agentpay.wire.x402_terms import accepted_offer, same_terms
from agentpay.wire.x402_vouchers import KNOWN_MAX, VoucherReader

SAMPLE: Any = json.loads(
    (Path(__file__).parents[2] / "vectors" / "x402_wire_samples.json").read_text()
)["messages"]["voucher"]["PAYMENT-SIGNATURE"]
VALUES = ("maxClaimableAmount", "signature")
ODD = ("0", "00", "01", "-1", "1" * 38, "9" * 39, "0x1", " 1", "1\u0661", "", 1, None)

amounts = st.integers(1, 10**38 - 1).map(str) | st.sampled_from(ODD)
signatures = st.one_of(
    st.binary(min_size=65, max_size=65).map(lambda raw: "0x" + raw.hex()),
    st.binary(min_size=65, max_size=65).map(lambda raw: "0X" + raw.hex().upper()),
    st.binary(max_size=130).map(lambda raw: "0x" + raw.hex()),
    st.sampled_from(["0x" + "zz" * 65, "0x" + "a" * 129, "", None]),
)
extras = st.dictionaries(
    st.sampled_from([*VALUES, "voucher", "x"]), st.text() | amounts
)
"""Other members, also of the very names that are looked for."""


def voucher_of(
    amount: Any, signature: Any, more: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    voucher = {**SAMPLE["payload"]["voucher"], **more}
    for name in VALUES:
        voucher.pop(name, None)
    return {**voucher, "maxClaimableAmount": amount, "signature": signature}


def header_of(voucher: Any, **more: Any) -> str:
    payload = {**SAMPLE["payload"], "voucher": voucher}
    return encode_json({**SAMPLE, "payload": payload, **more})


def plainly(header: str) -> PaymentPayload | str:
    try:
        return parse_payment(header)
    except MalformedMessage as error:
        return str(error)


def fast(reader: VoucherReader, header: str) -> PaymentPayload | str:
    try:
        return reader.read(header).whole
    except MalformedMessage as error:
        return str(error)


@given(st.lists(st.tuples(amounts, signatures, extras, st.booleans()), max_size=6))
def test_one_after_another_is_read_as_it_would_be_alone(
    vouchers: list[tuple[Any, Any, dict[str, Any], bool]],
) -> None:
    reader = VoucherReader()
    for amount, signature, more, beside in vouchers:
        voucher = voucher_of(amount, signature, {} if beside else more)
        header = header_of(voucher, extensions=more if beside else {})

        assert fast(reader, header) == plainly(header)


@given(st.lists(st.tuples(amounts, signatures, st.integers(0, 3000)), max_size=6))
def test_a_message_that_is_spoilt_anywhere_is_read_as_it_would_be_alone(
    spoilt: list[tuple[Any, Any, int]],
) -> None:
    reader = VoucherReader()
    reader.read(header_of(voucher_of("7", "0x" + "ab" * 65)))
    for amount, signature, place in spoilt:
        raw = bytearray(base64.b64decode(header_of(voucher_of(amount, signature))))
        raw[place % len(raw)] ^= 1
        header = base64.b64encode(raw).decode()

        assert fast(reader, header) == plainly(header)


LETTERS = st.sampled_from([*"AQz9+/=- \n", "\u0661", "", "==", "QQ==", "\ud800"])


@given(st.lists(st.tuples(amounts, signatures, st.integers(0, 4000), LETTERS)))
def test_a_header_that_is_spoilt_anywhere_is_read_as_it_would_be_alone(
    spoilt: list[tuple[Any, Any, int, str]],
) -> None:
    """Also by padding in its middle, which would end another one."""
    reader = VoucherReader()
    for amount, signature, place, letters in spoilt:
        header = header_of(voucher_of(amount, signature))
        fast(reader, header_of(voucher_of("7" * len(str(amount)), "0x" + "ab" * 65)))
        at = place % len(header)
        header = header[:at] + letters + header[at + max(1, len(letters)) :]

        assert fast(reader, header) == plainly(header)


def test_padding_where_the_values_are_is_no_payment() -> None:
    reader = VoucherReader()
    for amount in ("100", "101"):
        header = header_of(voucher_of(amount, "0x" + "ab" * 65))
        reader.read(header)
        start, end = reader._parts[len(header)]
        raw = base64.b64decode(header[start:end])
        shorter = base64.b64encode(raw.replace(amount.encode(), b"99")).decode()
        padded = header[:start] + shorter + header[end:]

        assert len(padded) == len(header)
        assert "=" in shorter
        assert fast(reader, padded) == plainly(padded) != plainly(header)


AMOUNT = '"maxClaimableAmount":"%s","signature":"0x%s"'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"accepted":{"x":{', "}},"),  # a member of something else
        ('"accepted":{"x\\', "},"),  # a name that only ends like it
        ('"payload":{"voucher":{', "}},"),  # one that is said twice: the last counts
    ],
)
def test_values_of_the_same_name_elsewhere_are_not_the_vouchers(
    before: str, after: str
) -> None:
    reader = VoucherReader()
    text = json.dumps(SAMPLE, separators=(",", ":"))
    for amount in ("5", "6", "7"):
        decoy = before + AMOUNT % (amount, "cd" * 65) + after
        header = base64.b64encode(("{" + decoy + text[1:]).encode()).decode()
        read = fast(reader, header)

        assert read == plainly(header)
        assert isinstance(read, PaymentPayload)
        assert isinstance(read.payload, VoucherPayload)
        assert read.payload.voucher.max_claimable_amount == int(
            SAMPLE["payload"]["voucher"]["maxClaimableAmount"]
        )


def test_a_name_of_the_field_in_python_does_not_hide_the_amount() -> None:
    reader = VoucherReader()
    for amount in ("5", "6"):
        voucher = voucher_of(amount, "0x" + "ab" * 65, {"max_claimable_amount": "3"})
        header = header_of(voucher)

        assert fast(reader, header) == plainly(header)


def test_utf_16_that_looks_like_it_is_read_as_what_it_is() -> None:
    reader = VoucherReader()
    hidden = (AMOUNT % ("5", "ab" * 65)).encode()
    hidden = hidden if len(hidden) % 2 == 0 else hidden + b" "
    for text in (hidden, hidden.replace(b"5", b"6", 1)):
        message = {**SAMPLE, "extensions": {"x": text.decode("utf-16-le")}}
        raw = json.dumps(message, ensure_ascii=False).encode("utf-16-le")
        header = base64.b64encode(raw).decode()

        assert fast(reader, header) == plainly(header)


def test_what_is_remembered_is_bounded() -> None:
    reader = VoucherReader()
    for n in range(KNOWN_MAX + 10):
        header = header_of(voucher_of("7", "0x" + "ab" * 65), resource={"url": str(n)})

        assert fast(reader, header) == plainly(header)
    assert len(reader._known) <= KNOWN_MAX
    assert len(reader._parts) <= HEADER_BYTES_MAX


def test_of_a_known_channels_voucher_only_its_values_are_read() -> None:
    reader = VoucherReader()
    first = reader.read(header_of(voucher_of("7", "0x" + "ab" * 65)))
    second = reader.read(header_of(voucher_of("8", "0x" + "cd" * 65)))

    assert first.amount is None
    assert second.known is first.known
    assert (second.amount, second.signature) == (8, b"\xcd" * 65)


words = st.sampled_from(["0xAB", "0xab", "0xac", "x", 1, 1.0, True])
offers = st.fixed_dictionaries(
    {"scheme": st.just("batch-settlement"), "amount": words},
    optional={"extra": st.dictionaries(st.sampled_from("ab"), words)},
)


@given(st.lists(offers, min_size=1, max_size=4), st.lists(offers, max_size=4))
def test_what_is_accepted_again_is_accepted_as_it_was(
    ours: list[Any], accepted: list[Any]
) -> None:
    """Also where it was looked up before, beside others of the same words."""
    payment = parse_payment(header_of(voucher_of("7", "0x" + "ab" * 65)))
    for said in (*accepted, *accepted):
        plain = [offer for offer in ours if same_terms(offer, said)]
        found = accepted_offer(payment.model_copy(update={"accepted": said}), ours)

        assert found is (plain[0] if plain else None)
