"""Version 1 is turned into version 2 and back, and nothing else is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage
from agentpay.evm.networks import BASE_SEPOLIA
from agentpay.types import ChainId
from agentpay.wire import x402_v1 as v1
from agentpay.wire import x402_write as write
from agentpay.wire.headers import decode_json, encode_json
from agentpay.wire.x402 import ExactPayload, parse_payment

URL = "https://api.example.com/premium-data"

# The examples of the specification, 5.1.1 and 5.2.1.
OFFER_V1: dict[str, Any] = {
    "scheme": "exact",
    "network": "base-sepolia",
    "maxAmountRequired": "10000",
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "resource": URL,
    "description": "Access to premium market data",
    "mimeType": "application/json",
    "outputSchema": None,
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2"},
}
PAYMENT_V1: dict[str, Any] = {
    "x402Version": 1,
    "scheme": "exact",
    "network": "base-sepolia",
    "payload": {
        "signature": "0x" + "2d" * 65,
        "authorization": {
            "from": "0x857b06519E91e3A54538791bDbb0E22373e36b66",
            "to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "value": "10000",
            "validAfter": "1740672089",
            "validBefore": "1740672154",
            "nonce": "0x" + "f3" * 32,
        },
    },
}
OFFER: dict[str, Any] = {
    "scheme": "exact",
    "network": "eip155:84532",
    "asset": OFFER_V1["asset"],
    "amount": "10000",
    "payTo": OFFER_V1["payTo"],
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2", "paymentFlow": "upfront"},
}
CHANNEL = {**OFFER, "scheme": "batch-settlement"}
PERMIT = {**OFFER, "extra": {"assetTransferMethod": "permit2"}}


def test_offers_are_written_as_the_specification_writes_them() -> None:
    required = write.payment_required(
        url=URL,
        about={
            "description": "Access to premium market data",
            "mimeType": "application/json",
        },
        accepts=[CHANNEL, PERMIT, OFFER],
        error="Payment required",
        extensions={},
    )

    assert v1.downgrade_required(required) == {
        "x402Version": 1,
        "error": "Payment required",
        "accepts": [OFFER_V1],
    }


@pytest.mark.parametrize("network", ["base-sepolia", "eip155:84532"])
def test_a_payment_is_read_as_what_it_can_only_mean(network: str) -> None:
    header = encode_json({**PAYMENT_V1, "network": network})
    upgraded = v1.upgrade_payment(header, (CHANNEL, PERMIT, OFFER), URL)
    payment = parse_payment(upgraded)

    assert payment.accepted == OFFER
    assert isinstance(payment.payload, ExactPayload)
    assert payment.payload.authorization.value == 10_000
    assert payment.resource is not None
    assert payment.resource.url == URL


@pytest.mark.parametrize(
    "changes",
    [
        {"x402Version": 2},
        {"x402Version": "1"},
        {"scheme": "upto"},
        {"network": "base"},
        {"network": "eip155:8453"},
        {"payload": {}},
        {"payload": {**PAYMENT_V1["payload"], "signature": "0xzz"}},
    ],
)
def test_p3_what_version_1_does_not_have_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        v1.upgrade_payment(encode_json({**PAYMENT_V1, **changes}), (OFFER,), URL)


def test_p3_version_1_pays_no_channel_and_by_no_permit() -> None:
    with pytest.raises(MalformedMessage, match="nothing here is paid"):
        v1.upgrade_payment(encode_json(PAYMENT_V1), (CHANNEL, PERMIT), URL)


@given(st.text(max_size=200))
def test_nonsense_is_malformed(header: str) -> None:
    with pytest.raises(MalformedMessage):
        v1.upgrade_payment(header, (OFFER,), URL)


def test_a_receipt_has_the_members_of_version_1() -> None:
    header = encode_json(
        write.receipt(
            success=True,
            chain=BASE_SEPOLIA.chain,
            payer="0x85",
            transaction="0x12",
            amount="10000",
            extensions={"offer-receipt": {}},
        )
    )
    receipt = decode_json(
        v1.downgrade_receipt(header, BASE_SEPOLIA.chain), name="X-PAYMENT-RESPONSE"
    )

    assert receipt == {
        "success": True,
        "payer": "0x85",
        "transaction": "0x12",
        "network": "base-sepolia",
    }
    assert v1.network_name(ChainId(1)) == "eip155:1"
