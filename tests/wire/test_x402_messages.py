"""x402 messages: those of the official SDK, our own, and everything that is neither."""

import base64
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.evm.eip3009 import Authorization
from agentpay.types import (
    UINT40_MAX,
    UINT128_MAX,
    UINT256_MAX,
    Address,
    ChainId,
    Hash32,
)
from agentpay.wire import parallel
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject, decode_json, encode_json
from agentpay.wire.parallel import ParallelTerms
from agentpay.wire.x402 import (
    DepositPayload,
    ExactPayload,
    Permit2Payload,
    RefundPayload,
    VoucherPayload,
    parse_payment,
    parse_payment_required,
    parse_response,
)
from agentpay.wire.x402_terms import same_terms

SAMPLES: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "x402_wire_samples.json").read_text()
)["messages"]
KINDS: dict[str, type[Any]] = {
    "exact": ExactPayload,
    "deposit": DepositPayload,
    "voucher": VoucherPayload,
    "refund": RefundPayload,
}
PARSERS = (parse_payment_required, parse_payment, parse_response)


def shape(value: object, *, but: frozenset[str] = frozenset()) -> object:
    """A message without its values: names and types."""
    if isinstance(value, dict):
        return {k: shape(v, but=but) for k, v in value.items() if k not in but}
    return (
        [shape(v, but=but) for v in value] if isinstance(value, list) else type(value)
    )


# What the official SDK sends


@pytest.mark.parametrize("name", ["402 /exact", "402 /batch"])
def test_an_official_402_is_understood_and_echoed_as_it_came(name: str) -> None:
    header = SAMPLES[name]["headers"]["payment-required"]
    required = parse_payment_required(header)
    ((offer, words),) = required.readable_offers()

    assert offer.amount == 1000
    assert words == json.loads(base64.b64decode(header))["accepts"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_official_payment_is_understood(kind: str) -> None:
    message = SAMPLES[kind]["PAYMENT-SIGNATURE"]
    payment = parse_payment(encode_json(message))

    assert isinstance(payment.payload, KINDS[kind])
    assert payment.accepted == message["accepted"]


def test_an_official_corrective_402_carries_state_and_proof() -> None:
    header = encode_json(SAMPLES["corrective-402 (replay)"]["PAYMENT-REQUIRED"])
    ((offer, _),) = parse_payment_required(header).readable_offers()

    assert isinstance(offer.extra["channelState"], dict)
    assert isinstance(offer.extra["voucherState"], dict)


def receipts() -> Iterator[dict[str, Any]]:
    for sample in SAMPLES.values():
        if isinstance(sample, dict) and "PAYMENT-RESPONSE" in sample:
            yield sample["PAYMENT-RESPONSE"]


def test_every_official_receipt_is_understood() -> None:
    found = [parse_response(encode_json(message)) for message in receipts()]

    assert len(found) >= 3
    assert all(receipt.success for receipt in found)


@pytest.mark.parametrize("member", ["error", "resource", "extensions"])
def test_a_member_of_a_402_that_is_null_is_not_there(member: str) -> None:
    header = SAMPLES["402 /exact"]["headers"]["payment-required"]
    message = json.loads(base64.b64decode(header))
    without = {name: value for name, value in message.items() if name != member}
    required = parse_payment_required(encode_json({**message, member: None}))

    assert required == parse_payment_required(encode_json(without))
    assert len(required.readable_offers()) == 1


@pytest.mark.parametrize("junk", [None, True, 7, 0.5, "x", [], [{}], {}])
def test_c17_what_is_no_offer_spoils_none_of_the_others(junk: object) -> None:
    header = SAMPLES["402 /exact"]["headers"]["payment-required"]
    message = json.loads(base64.b64decode(header))
    offers = [junk, *message["accepts"], junk]
    required = parse_payment_required(encode_json({**message, "accepts": offers}))

    assert [words for _, words in required.readable_offers()] == message["accepts"]


def test_what_a_402_says_of_its_resource_or_offer_may_be_null() -> None:
    header = SAMPLES["402 /exact"]["headers"]["payment-required"]
    message = json.loads(base64.b64decode(header))
    message["resource"] |= {"description": None, "mimeType": None}
    message["accepts"][0]["extra"] = None
    required = parse_payment_required(encode_json(message))
    ((offer, words),) = required.readable_offers()

    assert offer.extra == {}
    assert words["extra"] is None


@pytest.mark.parametrize("strange", [None, True, "x", [], {"info": "x"}])
def test_an_extension_unlike_all_we_know_spoils_neither_payment_nor_receipt(
    strange: Any,
) -> None:
    known = {"info": {"id": "a name of sixteen"}}
    extensions = {"strange": strange, "known": known}
    payment = SAMPLES["deposit"]["PAYMENT-SIGNATURE"]
    paid = parse_payment(encode_json({**payment, "extensions": extensions}))
    receipt = {"success": True, "network": "eip155:1", "extensions": extensions}
    read = parse_response(encode_json(receipt))

    for said in (paid.extensions, read.extensions):
        assert [name for name in said if name != "strange"] == ["known"]
        assert said["known"].info == known["info"]
    nothing = {**receipt, "transaction": None, "extra": None, "extensions": None}
    assert parse_response(encode_json(nothing)).success


# What we send


addresses = st.binary(min_size=20, max_size=20).map(lambda b: Address("0x" + b.hex()))
hashes = st.binary(min_size=32, max_size=32).map(Hash32.of)
signatures = st.binary(min_size=0, max_size=200)
uint128 = st.integers(0, UINT128_MAX)
uint256 = st.integers(0, UINT256_MAX)
chains = st.integers(1, 2**60).map(ChainId)
texts = st.text(max_size=50)
configs = st.builds(
    ChannelConfig,
    payer=addresses,
    payer_authorizer=addresses,
    receiver=addresses,
    receiver_authorizer=addresses,
    token=addresses,
    withdraw_delay=st.integers(0, UINT40_MAX),
    salt=hashes,
)
offers = st.builds(
    write.requirements,
    scheme=st.sampled_from(["exact", "batch-settlement"]),
    chain=chains,
    asset=addresses,
    amount=uint256,
    pay_to=addresses,
    max_timeout_seconds=st.integers(0, 10**6),
    extra=st.dictionaries(texts, texts, max_size=3),
)


@given(st.lists(offers, max_size=5), texts, texts)
def test_our_402_says_what_was_put_in(
    accepts: list[JsonObject], url: str, error: str
) -> None:
    message = write.payment_required(
        url=url, accepts=accepts, error=error, extensions={}
    )
    required = parse_payment_required(encode_json(message))

    assert required.accepts == accepts
    assert required.error == error
    assert required.resource is not None
    assert required.resource.url == url
    for offer, words in required.readable_offers():
        assert offer.amount == int(str(words["amount"]))
        assert offer.pay_to == str(words["payTo"]).lower()


@given(
    accepted=offers,
    config=configs,
    channel=hashes,
    amount=uint128,
    signature=signatures,
    kind=st.sampled_from(["voucher", "refund"]),
)
def test_our_vouchers_say_what_was_put_in(
    *,
    accepted: JsonObject,
    config: ChannelConfig,
    channel: Hash32,
    amount: int,
    signature: bytes,
    kind: str,
) -> None:
    payload = write.voucher_payload(kind, config, channel, amount, signature)
    message = write.payment(
        accepted=accepted, payload=payload, url="http://x", extensions={}
    )
    read = parse_payment(encode_json(message))

    assert isinstance(read.payload, KINDS[kind])
    assert not isinstance(read.payload, ExactPayload)
    voucher = read.payload.voucher
    assert (voucher.channel_id, voucher.max_claimable_amount) == (channel, amount)
    assert voucher.signature == signature
    fields = read.payload.channel_config
    assert (fields.payer, fields.salt) == (config.payer, config.salt)
    assert fields.withdraw_delay == config.withdraw_delay
    assert read.accepted == accepted
    assert same_terms(accepted, read.accepted)


@given(
    config=configs,
    channel=hashes,
    amount=uint128,
    signature=signatures,
    valid_before=uint256,
    salt=hashes,
)
def test_our_deposits_say_what_was_put_in(
    *,
    config: ChannelConfig,
    channel: Hash32,
    amount: int,
    signature: bytes,
    valid_before: int,
    salt: Hash32,
) -> None:
    payload = write.voucher_payload("deposit", config, channel, amount, signature)
    payload["deposit"] = write.deposit_part(
        amount=amount, valid_before=valid_before, salt=salt, signature=signature
    )
    message = write.payment(accepted={}, payload=payload, url="", extensions={})
    read = parse_payment(encode_json(message)).payload

    assert isinstance(read, DepositPayload)
    fields = read.deposit.authorization.erc3009_authorization
    assert fields is not None
    assert (read.deposit.amount, fields.salt) == (amount, salt)
    assert (fields.valid_after, fields.valid_before) == (0, valid_before)


@given(
    st.builds(
        Authorization,
        payer=addresses,
        to=addresses,
        value=uint256,
        valid_after=uint256,
        valid_before=uint256,
        nonce=hashes,
    ),
    signatures,
)
def test_our_transfers_say_what_was_put_in(
    authorization: Authorization, signature: bytes
) -> None:
    payload = write.exact_payload(authorization, signature)
    message = write.payment(accepted={}, payload=payload, url="", extensions={})
    read = parse_payment(encode_json(message)).payload

    assert isinstance(read, ExactPayload)
    fields = read.authorization
    assert fields.payer == authorization.payer
    assert (fields.to, fields.value) == (authorization.to, authorization.value)
    assert fields.valid_after == authorization.valid_after
    assert fields.valid_before == authorization.valid_before
    assert fields.nonce == authorization.nonce


@given(
    success=st.booleans(),
    error=texts,
    charged=uint128,
    total=uint128,
    channel=hashes,
)
def test_our_receipts_say_what_was_put_in(
    *, success: bool, error: str, charged: int, total: int, channel: Hash32
) -> None:
    state = write.channel_state(
        channel=channel,
        balance=total,
        claimed=0,
        withdraw_requested_at=0,
        refund_nonce=0,
        charged=total,
    )
    message = write.receipt(
        success=success,
        chain=ChainId(8453),
        error=error,
        extra={"chargedAmount": str(charged), "channelState": state},
        extensions=parallel.outcome(total, "charged", charged),
    )
    read = parse_response(encode_json(message))
    outcome = parallel.read_outcome(read)

    assert (read.success, read.error_reason) == (success, error)
    assert read.extra is not None
    assert read.extra.charged_amount == charged
    assert read.extra.channel_state is not None
    assert read.extra.channel_state.charged_cumulative_amount == total
    assert outcome is not None
    assert (outcome.cumulative, outcome.charged) == (total, charged)


@given(st.integers(1, 2**16), st.data())
def test_our_extension_says_what_was_put_in(window: int, data: st.DataObject) -> None:
    most = data.draw(st.integers(1, window))
    terms = ParallelTerms(window=window, in_flight_max=most)

    assert parallel.read_offer({parallel.KEY: parallel.offer(terms)}) == terms
    echo = write.payment(
        accepted={},
        payload=write.exact_payload(_AUTHORIZATION, b""),
        url="",
        extensions=parallel.echo(terms, query=True),
    )
    assert parallel.is_query(parse_payment(encode_json(echo)).extensions)


_AUTHORIZATION = Authorization(
    payer=Address("0x" + "11" * 20),
    to=Address("0x" + "22" * 20),
    value=1,
    valid_after=0,
    valid_before=1,
    nonce=Hash32.of(bytes(32)),
)


@pytest.mark.parametrize(
    "info",
    [
        {"version": 2, "window": 10, "maxInFlight": 5},
        {"version": 1, "window": 0, "maxInFlight": 0},
        {"version": 1, "window": 10, "maxInFlight": 11},
        {"version": 1, "window": True, "maxInFlight": True},
        {"version": 1, "window": "10", "maxInFlight": "5"},
        {"version": 1, "window": 10.0, "maxInFlight": 5},
        {"version": 1, "window": 10**9, "maxInFlight": 5},
        {"version": 1},
        None,
    ],
)
def test_an_extension_on_terms_that_we_do_not_know_is_none(info: Any) -> None:
    assert parallel.read_offer({parallel.KEY: {"info": info}}) is None


@pytest.mark.parametrize("kind", KINDS)
def test_our_payments_have_the_shape_of_official_ones(kind: str) -> None:
    message = SAMPLES[kind]["PAYMENT-SIGNATURE"]
    payload = parse_payment(encode_json(message)).payload
    ours: JsonObject
    if isinstance(payload, ExactPayload):
        ours = write.exact_payload(_AUTHORIZATION, b"")
    else:
        assert not isinstance(payload, Permit2Payload)
        fields = payload.channel_config
        config = ChannelConfig(
            payer=fields.payer,
            payer_authorizer=fields.payer_authorizer,
            receiver=fields.receiver,
            receiver_authorizer=fields.receiver_authorizer,
            token=fields.token,
            withdraw_delay=fields.withdraw_delay,
            salt=fields.salt,
        )
        voucher = payload.voucher
        ours = write.voucher_payload(
            kind,
            config,
            voucher.channel_id,
            voucher.max_claimable_amount,
            voucher.signature,
        )
    if isinstance(payload, DepositPayload):
        made = payload.deposit.authorization.erc3009_authorization
        assert made is not None
        ours["deposit"] = write.deposit_part(
            amount=payload.deposit.amount,
            valid_before=made.valid_before,
            salt=made.salt,
            signature=made.signature,
        )
    theirs = message["payload"]

    assert shape(ours) == shape(theirs)
    if not isinstance(payload, ExactPayload):
        assert ours["channelConfig"] == theirs["channelConfig"]
        assert ours["voucher"] == theirs["voucher"]


# What nobody should send


def fields_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of every leaf in a message."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from fields_of(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from fields_of(inner, (*path, place))
    else:
        yield path


JUNK: tuple[Any, ...] = (
    None,
    True,
    1,
    -1,
    1.5,
    10**400,
    "",
    "-1",
    "+1",
    "01",
    " 1",
    "1 ",
    "1\n",
    "1_0",
    "0x1",
    "1e3",
    "\u0661",
    "9" * 5000,
    "0x" + "g" * 40,
    "0x" + "1" * 41,
    "0x" + "1" * 63,
    "x\r\ny: z",
    [],
    {},
    [[[[]]]],
    {"a": {"b": None}},
)


def spoilt(message: dict[str, Any], path: tuple[Any, ...], junk: Any) -> dict[str, Any]:
    copied = copy.deepcopy(message)
    place: Any = copied
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = junk
    return copied


@pytest.mark.parametrize("kind", KINDS)
def test_c17_junk_in_a_payment_is_malformed_and_never_money(kind: str) -> None:
    message = SAMPLES[kind]["PAYMENT-SIGNATURE"]
    payload = message["payload"]
    for path in fields_of(payload):
        for junk in JUNK:
            header = encode_json({**message, "payload": spoilt(payload, path, junk)})
            if path[-1] == "withdrawDelay" and junk == 1 and junk is not True:
                continue
            with pytest.raises(MalformedMessage):
                parse_payment(header)


@pytest.mark.parametrize("name", ["402 /exact", "402 /batch"])
def test_c17_junk_in_an_offer_makes_it_unreadable(name: str) -> None:
    message = json.loads(base64.b64decode(SAMPLES[name]["headers"]["payment-required"]))
    (offer,) = message["accepts"]
    names = ("network", "asset", "amount", "payTo", "maxTimeoutSeconds")
    for field in names:
        for junk in JUNK:
            if field == "maxTimeoutSeconds" and type(junk) is int and junk >= 0:
                continue
            broken = {**message, "accepts": [{**offer, field: junk}]}
            try:
                required = parse_payment_required(encode_json(broken))
            except MalformedMessage:
                continue
            assert required.readable_offers() == [], (field, junk)


def test_c17_junk_in_a_receipt_is_malformed() -> None:
    receipt = write.receipt(
        success=True,
        chain=ChainId(1),
        extra={
            "chargedAmount": "1",
            "channelState": write.channel_state(
                channel=Hash32.of(bytes(32)),
                balance=1,
                claimed=0,
                withdraw_requested_at=0,
                refund_nonce=0,
                charged=1,
            ),
        },
    )
    absent_is_fine = {"chargedAmount", "chargedCumulativeAmount"}
    for path in fields_of(receipt):
        if path[-1] in ("transaction", "network"):
            continue  # any text will do: they are for people
        for junk in JUNK:
            if junk is None and path[-1] in absent_is_fine:
                continue
            if path[-1] == "withdrawRequestedAt" and type(junk) is int and junk == 1:
                continue
            if path[-1] == "success" and junk is True:
                continue
            header = encode_json(spoilt(receipt, path, junk))
            with pytest.raises(MalformedMessage):
                parse_response(header)


NESTED = b'{"a":' * 5000 + b"1" + b"}" * 5000
BROKEN = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"1",
    b"\xff\xfe",
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":-Infinity}',
    b'{"a":1e999}',
    b'{"a":"\\ud800"}',
    b'{"\\udfff":1}',
    b'{"a":' + b"9" * 5000 + b"}",
    b'{"a":1}trailing',
    b"{'a':1}",
    NESTED,
    b"[" * 6000,
    b'{"a":[' + b"[]," * 300 + b"[]]}",
)


@pytest.mark.parametrize("raw", BROKEN)
@pytest.mark.parametrize("parse", PARSERS)
def test_c17_a_header_that_is_no_object_is_malformed(parse: Any, raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse(base64.b64encode(raw).decode())


@pytest.mark.parametrize(
    "header", ["é", "e30", "e30=\r\n", "e3 0=", "e30=e30=", "====", "\x00", "-_-_"]
)
@pytest.mark.parametrize("parse", PARSERS)
def test_c17_a_header_that_is_not_base64_is_malformed(parse: Any, header: str) -> None:
    with pytest.raises(MalformedMessage):
        parse(header)


@pytest.mark.parametrize("parse", PARSERS)
def test_c17_a_header_bomb_is_refused_unread(parse: Any) -> None:
    with pytest.raises(MessageTooLarge):
        parse("A" * 50_000_000)


@given(
    st.text(max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("latin-1"))
)
def test_c17_nothing_but_our_error_comes_out_of_any_text(header: str) -> None:
    for parse in PARSERS:
        with pytest.raises(MalformedMessage):
            parse(header)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=12), json_values, max_size=6))
def test_c17_nothing_but_our_error_comes_out_of_any_object(
    message: dict[str, Any],
) -> None:
    header = encode_json(message)
    for parse in PARSERS:
        try:
            parse(header)
        except MalformedMessage:
            continue


@given(st.dictionaries(st.text(max_size=12), json_values, max_size=4), st.data())
def test_c17_any_value_in_any_place_is_read_or_malformed(
    junk: dict[str, Any], data: st.DataObject
) -> None:
    message = SAMPLES[data.draw(st.sampled_from(sorted(KINDS)))]["PAYMENT-SIGNATURE"]
    path = data.draw(st.sampled_from(list(fields_of(message))))
    value = data.draw(st.sampled_from([junk, *junk.values()]))
    try:
        read = parse_payment(encode_json(spoilt(message, path, value)))
    except MalformedMessage:
        return
    encode_json(read.accepted)  # what was read can be echoed


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_what_is_written_is_what_is_read(message: JsonObject) -> None:
    header = encode_json(message)
    if len(header) > 16_000 or header.count("[") > 100:
        return
    try:
        read = decode_json(header, name="x")
    except MalformedMessage:
        assert "\\ud" in json.dumps(message).lower() or _is_large(message)
        return

    assert read == message


def _is_large(message: JsonObject) -> bool:
    text = json.dumps(message)
    unwritable = "e+" in text or "Infinity" in text or "NaN" in text
    return text.count("{") + text.count("[") > 256 or unwritable


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_c17_reading_takes_linear_time(size: int) -> None:
    worst = b'{"a":"' + b"\\ud" * (size * 500) + b'"}'
    flat = b'{"x402Version":2,"accepts":[' + b"1," * (size * 700) + b"1]}"
    began = time.process_time()
    for raw in (worst, flat, b"[" * (size * 1000), b'"' * (size * 1000)):
        for parse in PARSERS:
            with pytest.raises(MalformedMessage):
                parse(base64.b64encode(raw).decode())

    assert time.process_time() - began < 0.5
