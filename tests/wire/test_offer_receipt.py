"""Signed offers and receipts, as messages carry them and anybody can check them."""

from dataclasses import fields, replace
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from agentpay import Wallet
from agentpay.errors import MalformedMessage
from agentpay.evm.offer_receipt import OfferPayload, ReceiptPayload
from agentpay.types import UINT256_MAX, ChainId
from agentpay.wire import offer_receipt as wire
from tests.wire.schemas import faults

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
MOMENTS = st.integers(0, UINT256_MAX)
OFFERS = st.builds(
    OfferPayload,
    **dict.fromkeys(
        ("resource_url", "scheme", "network", "asset", "pay_to", "amount"), TEXTS
    ),
    valid_until=MOMENTS,
)
RECEIPTS = st.builds(
    ReceiptPayload,
    **dict.fromkeys(("network", "resource_url", "payer", "transaction"), TEXTS),
    issued_at=MOMENTS,
)
WALLET = Wallet(bytes(31) + b"\x07")
FORGER = Wallet(bytes(31) + b"\x08")
LOCAL = ChainId(31337)

# Sections 4.3 and 5.3 of the specification.
STRINGS = ("resourceUrl", "scheme", "network", "asset", "payTo", "amount")
OFFER_TYPE = [
    {"name": "version", "type": "uint256"},
    *({"name": name, "type": "string"} for name in STRINGS),
    {"name": "validUntil", "type": "uint256"},
]
RECEIPT_TYPE = [
    {"name": "version", "type": "uint256"},
    *({"name": n, "type": "string"} for n in ("network", "resourceUrl", "payer")),
    {"name": "issuedAt", "type": "uint256"},
    {"name": "transaction", "type": "string"},
]


def their_digest(name: str, kind: str, types: Any, message: Any) -> bytes:
    signable = encode_typed_data(
        {"name": name, "version": "1", "chainId": 1}, {kind: types}, message
    )
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def offer_words(payload: OfferPayload, signature: bytes) -> Any:
    info: Any = wire.write_offers([(payload, signature)])["info"]
    return info["offers"][0]


def receipt_words(payload: ReceiptPayload, signature: bytes) -> Any:
    info: Any = wire.write_receipt(payload, signature)["info"]
    return info["receipt"]


@given(OFFERS)
def test_an_offers_digest_is_the_one_that_everybody_computes(
    payload: OfferPayload,
) -> None:
    message = offer_words(payload, bytes(65))["payload"]

    assert payload.digest() == their_digest("x402 offer", "Offer", OFFER_TYPE, message)


@given(RECEIPTS)
def test_a_receipts_digest_is_the_one_that_everybody_computes(
    payload: ReceiptPayload,
) -> None:
    message = receipt_words(payload, bytes(65))["payload"]
    theirs = their_digest("x402 receipt", "Receipt", RECEIPT_TYPE, message)

    assert payload.digest() == theirs


async def signed(payload: OfferPayload | ReceiptPayload) -> bytes:
    return await WALLET.sign_digest(payload.digest(), chain=LOCAL)


OFFER = OfferPayload(
    resource_url="https://api.example.com/premium-data",
    scheme="exact",
    network="eip155:8453",
    asset="0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    pay_to="0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    amount="10000",
    valid_until=1703123516,
)
RECEIPT = ReceiptPayload(
    network="eip155:8453",
    resource_url="https://api.example.com/premium-data",
    payer="0x857b06519E91e3A54538791bDbb0E22373e36b66",
    issued_at=1703123456,
)


async def test_an_offer_is_read_as_it_was_signed() -> None:
    extension = wire.write_offers([(OFFER, await signed(OFFER))])
    (read,) = wire.read_offers({wire.KEY: extension})
    entry: Any = {
        "scheme": OFFER.scheme,
        "network": OFFER.network,
        "asset": OFFER.asset,
        "payTo": OFFER.pay_to,
        "amount": OFFER.amount,
    }

    assert (read.payload, read.signer) == (OFFER, WALLET.address)
    assert read.is_of(entry, OFFER.resource_url)
    assert not faults(extension["info"], extension["schema"])
    assert not read.is_of(entry, OFFER.resource_url + "/other")
    for name in entry:
        assert not read.is_of({**entry, name: "other"}, OFFER.resource_url), name


async def test_a_receipt_is_read_as_it_was_signed() -> None:
    extension = wire.write_receipt(RECEIPT, await signed(RECEIPT))
    read = wire.read_receipt({wire.KEY: extension})

    assert read is not None
    assert (read.payload, read.signer) == (RECEIPT, WALLET.address)
    assert not faults(extension["info"], extension["schema"])


@pytest.mark.parametrize("payload", [OFFER, RECEIPT])
async def test_whatever_is_changed_was_not_signed_by_its_signer(
    payload: OfferPayload | ReceiptPayload,
) -> None:
    signature = await signed(payload)
    for field in fields(payload):
        value = getattr(payload, field.name)
        other: Any = value + 1 if isinstance(value, int) else value + "x"
        changed = replace(payload, **{field.name: other})

        assert changed.signer(signature) != WALLET.address, field.name
    assert payload.signer(signature) == WALLET.address


async def test_an_optional_field_may_be_absent() -> None:
    plain = replace(OFFER, valid_until=0)
    words = offer_words(plain, await signed(plain))
    del words["payload"]["validUntil"]
    receipt = wire.write_receipt(RECEIPT, await signed(RECEIPT))
    info: Any = receipt["info"]
    del info["receipt"]["payload"]["transaction"]
    read = wire.read_receipt({wire.KEY: receipt})

    assert wire.read_offer(words).signer == WALLET.address
    assert read is not None
    assert read.signer == WALLET.address


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("info", "offers", "receipt", "format", "payload")), inner
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_nonsense_is_no_offer_and_no_receipt(words: Any) -> None:
    assert wire.read_offers({wire.KEY: words}) == []
    with pytest.raises(MalformedMessage):
        wire.read_offer(words)
    try:
        assert wire.read_receipt({wire.KEY: words}) is None
    except MalformedMessage:
        assert words["info"]["receipt"]["format"] == "eip712"


@pytest.mark.parametrize("version", [0, 2, "1", True, None])
async def test_another_version_is_not_read_as_ours(version: Any) -> None:
    words = offer_words(OFFER, await signed(OFFER))
    words["payload"]["version"] = version

    if version is not True:  # which Python calls equal to 1
        with pytest.raises(MalformedMessage):
            wire.read_offer(words)
