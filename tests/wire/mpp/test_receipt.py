"""Receipts: ours carry what the drafts ask for, and everybody's are read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.types import ChainId, Hash32
from agentpay.wire.headers import JsonObject, JsonValue
from agentpay.wire.mpp.encoding import encode_base64url, encode_object
from agentpay.wire.mpp.receipt import (
    ChargeReceipt,
    Receipt,
    SessionReceipt,
    charge_receipt,
    format_receipt,
    parse_receipt,
    session_receipt,
)
from agentpay.wire.mpp.timestamps import format_time

from .factories import chains, filled, hashes, moments, uint128

FOREIGN: JsonObject = {
    "status": "success",
    "method": "tempo",
    "timestamp": "2026-01-29T12:00:30Z",
    "reference": "0xabc",
}
CHANNEL = Hash32("0x" + "ab" * 32)
SESSION = session_receipt(
    challenge_id="ch_1", chain=ChainId(1), channel=CHANNEL, accepted=5, spent=3, at=0
)


@given(filled, chains, hashes, moments, st.none() | filled)
def test_a_receipt_of_a_charge_comes_back(
    challenge_id: str,
    chain: ChainId,
    transaction: Hash32,
    at: int,
    external_id: str | None,
) -> None:
    sent = charge_receipt(
        challenge_id=challenge_id,
        chain=chain,
        transaction=transaction,
        at=at,
        external_id=external_id,
    )
    receipt = parse_receipt(format_receipt(sent), ChargeReceipt)

    assert receipt.reference == transaction
    assert receipt.timestamp == format_time(at)
    assert (receipt.challenge_id, receipt.chain_id) == (challenge_id, chain)
    assert receipt.external_id == external_id


@given(uint128, uint128, st.none() | st.integers(0, 2**53 - 1), st.none() | hashes)
def test_a_receipt_of_a_session_comes_back(
    accepted: int, spent: int, units: int | None, transaction: Hash32 | None
) -> None:
    sent = session_receipt(
        challenge_id="ch_1",
        chain=ChainId(8453),
        channel=CHANNEL,
        accepted=accepted,
        spent=spent,
        at=7,
        units=units,
        transaction=transaction,
    )
    receipt = parse_receipt(format_receipt(sent), SessionReceipt)

    assert (receipt.accepted_cumulative, receipt.spent) == (accepted, spent)
    assert receipt.reference == receipt.channel_id == CHANNEL
    assert (receipt.units, receipt.tx_hash) == (units, transaction)


def test_what_we_do_not_know_of_a_receipt_is_kept() -> None:
    receipt = parse_receipt(encode_object({**FOREIGN, "extra": {"a": 1}}), Receipt)

    assert receipt.model_extra == {"extra": {"a": 1}}


def test_the_sdks_say_less_of_a_charge() -> None:
    short: JsonObject = {**FOREIGN, "method": "evm", "reference": CHANNEL}

    assert parse_receipt(encode_object(short), ChargeReceipt).chain_id is None


@pytest.mark.parametrize("name", list(FOREIGN))
def test_what_every_receipt_says_is_missed(name: str) -> None:
    rest: JsonObject = {key: FOREIGN[key] for key in FOREIGN if key != name}

    with pytest.raises(MalformedMessage, match=name):
        parse_receipt(encode_object(rest), Receipt)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "failed"},
        {"timestamp": "Jan 29 2026 12:00"},
        {"timestamp": 7},
        {"reference": ""},
        {"challengeId": 7},
    ],
)
def test_what_is_no_receipt_is_refused(change: dict[str, JsonValue]) -> None:
    with pytest.raises(MalformedMessage, match="Payment-Receipt: "):
        parse_receipt(encode_object({**FOREIGN, **change}), Receipt)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "tempo"},
        {"intent": "charge"},
        {"spent": 3},
        {"spent": "-3"},
        {"spent": "03"},
        {"acceptedCumulative": str(2**128)},
        {"channelId": "0xab"},
        {"chainId": "1"},
        {"chainId": True},
        {"reference": "0x" + "cd" * 32},
        {"units": 1.5},
        {"txHash": "none"},
    ],
)
def test_what_is_no_receipt_of_a_session_is_refused(
    change: dict[str, JsonValue],
) -> None:
    message: JsonObject = {**SESSION, **change}
    with pytest.raises(MalformedMessage, match=next(iter(change))):
        parse_receipt(encode_base64url(json.dumps(message).encode()), SessionReceipt)


def test_too_long_a_receipt_is_refused_unread() -> None:
    with pytest.raises(MessageTooLarge):
        parse_receipt("!" * 20_000, Receipt)
