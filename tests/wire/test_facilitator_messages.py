"""What a payee asks and what a facilitator reads is one thing; the rest is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core.payee_channel import HeldVoucher
from agentpay.errors import MalformedMessage
from agentpay.evm.batch_settlement import ChannelConfig, VoucherClaim, channel_id
from agentpay.evm.batch_settlement_abi import ChannelOnChain, SignedRefund
from agentpay.evm.deposit import TokenDeposit
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.transfer import TokenTransfer
from agentpay.types import (
    UINT128_MAX,
    UINT256_MAX,
    Address,
    Asset,
    ChainId,
    Hash32,
)
from agentpay.wire import x402_asks as asks
from agentpay.wire import x402_facilitator as wire
from agentpay.wire.bazaar import BYTES_MAX, Listing
from agentpay.wire.x402 import DepositPayload, ExactPayload
from agentpay.wire.x402_asks import SettleAnswer, SupportedAnswer, VerifyAnswer
from agentpay.wire.x402_deposits import read_config, read_deposit
from agentpay.wire.x402_transfers import read_transfer

ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda b: Address("0x" + b.hex()))
HASHES = st.binary(min_size=32, max_size=32).map(Hash32.of)
AMOUNTS = st.integers(0, UINT128_MAX)
TIMES = st.integers(0, UINT256_MAX)
SIGNATURES = st.binary(min_size=65, max_size=100)
ASSETS = st.builds(
    Asset,
    chain=st.integers(1, 2**32).map(ChainId),
    address=ADDRESSES,
    decimals=st.just(6),
    name=st.just("USDC"),
    version=st.just("2"),
)
CONFIGS = st.builds(
    ChannelConfig,
    payer=ADDRESSES,
    payer_authorizer=ADDRESSES,
    receiver=ADDRESSES,
    receiver_authorizer=ADDRESSES,
    token=ADDRESSES,
    withdraw_delay=st.integers(900, 2_592_000),
    salt=HASHES,
)
AUTHORIZATIONS = st.builds(
    Authorization,
    payer=ADDRESSES,
    to=ADDRESSES,
    value=AMOUNTS,
    valid_after=TIMES,
    valid_before=TIMES,
    nonce=HASHES,
)
CLAIMS = st.builds(
    VoucherClaim,
    config=CONFIGS,
    max_claimable=AMOUNTS,
    signature=SIGNATURES,
    total_claimed=AMOUNTS,
)


_USDC: Any = {
    "address": Address("0x" + "0a" * 20),
    "decimals": 6,
    "name": "USDC",
    "version": "2",
}
_NOBODY = Address("0x" + "00" * 20)
_CONFIG = ChannelConfig(
    payer=_NOBODY,
    payer_authorizer=_NOBODY,
    receiver=_NOBODY,
    receiver_authorizer=_NOBODY,
    token=_NOBODY,
    withdraw_delay=900,
    salt=Hash32.of(bytes(32)),
)


def read(request: dict[str, Any]) -> wire.FacilitatorRequest:
    return wire.parse_request(asks.to_body(request))


@given(ASSETS, AUTHORIZATIONS, SIGNATURES)
def test_a_transfer_arrives_as_it_was_sent(
    asset: Asset, authorization: Authorization, signature: bytes
) -> None:
    transfer = TokenTransfer(
        asset=asset, authorization=authorization, signature=signature
    )
    request = read(asks.transfer_request(transfer, transfer.maximum))
    payload = request.payment_payload.payload

    assert isinstance(payload, ExactPayload)
    assert read_transfer(payload, asset) == transfer
    assert request.payment_requirements.amount == transfer.maximum
    assert request.payment_requirements.pay_to == transfer.to
    assert request.payment_requirements.network == asset.chain
    assert wire.wrong_agreement(request) is None


DEPOSITS = st.builds(
    TokenDeposit,
    config=CONFIGS,
    asset=ASSETS,
    amount=AMOUNTS,
    valid_after=TIMES,
    valid_before=TIMES,
    salt=HASHES,
    signature=SIGNATURES,
)
REFUNDS = st.builds(
    SignedRefund,
    config=CONFIGS,
    amount=AMOUNTS,
    nonce=TIMES,
    signature=SIGNATURES,
    claims=st.lists(CLAIMS, max_size=2).map(tuple),
    claims_signature=SIGNATURES,
)


@given(DEPOSITS)
def test_a_deposit_arrives_as_it_was_sent(deposit: TokenDeposit) -> None:
    config, asset = deposit.config, deposit.asset
    voucher = HeldVoucher(amount=7, signature=deposit.signature)
    request = read(asks.deposit_request(deposit, voucher))
    payload = request.payment_payload.payload

    assert isinstance(payload, DepositPayload)
    assert read_config(payload.channel_config) == config
    assert read_deposit(payload, config, asset) == deposit
    named = payload.voucher.channel_id
    wrong = wire.wrong_channel(config, named, request.payment_requirements)
    assert wrong == (None if config.token == asset.address else "token_mismatch")


LISTINGS = st.builds(
    Listing,
    resource=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
    extension=st.dictionaries(st.text(max_size=9), st.none() | st.lists(st.integers())),
    price=AMOUNTS,
)


@given(DEPOSITS, LISTINGS)
def test_a_listing_goes_along_and_changes_no_payment(
    deposit: TokenDeposit, listing: Listing
) -> None:
    voucher = HeldVoucher(amount=7, signature=deposit.signature)
    told = asks.deposit_request(deposit, voucher, listing)
    plain = asks.deposit_request(deposit, voucher)
    sent: Any = told["paymentPayload"]

    assert read(told).payment_payload.payload == read(plain).payment_payload.payload
    assert sent["resource"] == listing.resource
    assert sent["extensions"] == {"bazaar": listing.extension}


@pytest.mark.parametrize("most", ["x", "[]"])
def test_a_listing_that_fits_is_read_and_a_longer_one_is_left_out(most: str) -> None:
    """The worst that fits, text or values, is read by our own facilitator."""
    deposit = TokenDeposit(
        config=_CONFIG,
        asset=Asset(chain=ChainId(1), **_USDC),
        amount=1,
        valid_after=0,
        valid_before=1,
        salt=Hash32.of(bytes(32)),
        signature=bytes(65),
    )
    voucher = HeldVoucher(amount=7, signature=bytes(65))

    def asked(size: int) -> dict[str, Any]:
        filled: Any = "x" * size if most == "x" else [[]] * size
        listing = Listing(resource={}, extension={"info": filled}, price=1)
        request = asks.deposit_request(deposit, voucher, listing)
        assert isinstance(read(request).payment_payload.payload, DepositPayload)
        payment: Any = request["paymentPayload"]
        return dict(payment)

    room = (BYTES_MAX - len('[{}, {"info": ""}]')) // (1 if most == "x" else 4)

    assert "resource" in asked(room)
    assert not {"resource", "extensions"} & set(asked(room + 2))


@given(DEPOSITS, AMOUNTS, AMOUNTS)
def test_what_is_listed_costs_its_price_and_not_what_a_voucher_adds_up_to(
    deposit: TokenDeposit, price: int, cumulative: int
) -> None:
    voucher = HeldVoucher(amount=cumulative, signature=deposit.signature)
    listing = Listing(resource={}, extension={}, price=price)
    request = read(asks.deposit_request(deposit, voucher, listing))

    assert request.payment_requirements.amount == price
    assert request.payment_payload.accepted.amount == price


@given(ASSETS, st.lists(CLAIMS, min_size=1, max_size=4), SIGNATURES)
def test_claims_arrive_as_they_were_sent(
    asset: Asset, claims: list[VoucherClaim], signature: bytes
) -> None:
    payload = read(asks.claim_request(claims, signature, asset)).payment_payload.payload

    assert isinstance(payload, wire.ClaimPayload)
    assert list(wire.read_claims(payload.claims)) == claims
    assert payload.claim_authorizer_signature == signature


@given(ASSETS, REFUNDS)
def test_a_refund_arrives_as_it_was_sent(asset: Asset, refund: SignedRefund) -> None:
    payload = read(asks.refund_request(refund, asset)).payment_payload.payload

    assert isinstance(payload, wire.RefundOrder)
    assert read_config(payload.channel_config) == refund.config
    assert (payload.amount, payload.refund_nonce) == (refund.amount, refund.nonce)
    assert payload.refund_authorizer_signature == refund.signature
    assert wire.read_claims(payload.claims) == refund.claims
    assert payload.voucher.channel_id == channel_id(refund.config, asset.chain)


@given(ASSETS, ADDRESSES)
def test_a_settlement_arrives_as_it_was_sent(asset: Asset, receiver: Address) -> None:
    payload = read(asks.settle_request(receiver, asset)).payment_payload.payload

    assert isinstance(payload, wire.SettlePayload)
    assert (payload.receiver, payload.token) == (receiver, asset.address)


@pytest.mark.parametrize("strange", [None, True, "x", [], {"info": "x"}])
def test_an_extension_that_we_do_not_know_stops_no_payment(strange: Any) -> None:
    asset, nobody = Asset(chain=ChainId(1), **_USDC), Address("0x" + "00" * 20)
    request: Any = asks.settle_request(nobody, asset)
    payment = request["paymentPayload"]
    plain = read(request)
    for extensions in (None, {}, {"strange": strange}):
        asked = read(
            {**request, "paymentPayload": {**payment, "extensions": extensions}}
        )
        assert asked.payment_payload.payload == plain.payment_payload.payload
        assert not asked.payment_payload.extensions.get("known")


def test_an_answer_whose_members_are_null_says_that_they_are_not_there() -> None:
    said = {"success": False, "errorReason": "no", "transaction": None, "payer": None}
    body = json.dumps({**said, "network": None}).encode()
    answer = asks.parse_answer(SettleAnswer, body)

    assert (answer.success, answer.reason, answer.transaction) == (False, "no", "")


@pytest.mark.parametrize("payer", ["", "nobody", None])
def test_whom_a_facilitator_names_as_payer_is_not_asked(payer: str | None) -> None:
    body = json.dumps({"success": True, "transaction": "0x1", "payer": payer}).encode()

    assert asks.parse_answer(SettleAnswer, body).success


@given(st.binary(max_size=300))
def test_c17_any_bytes_are_a_request_or_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        wire.parse_request(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["x402Version", "paymentPayload", "paymentRequirements", "payload"]
            )
            | st.text(max_size=8),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_c17_any_json_is_read_or_malformed(value: object) -> None:
    body = json.dumps(value).encode()
    for model in (VerifyAnswer, SettleAnswer, SupportedAnswer):
        try:
            asks.parse_answer(model, body)
        except MalformedMessage:
            continue
    try:
        wire.parse_request(body)
    except MalformedMessage:
        return


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_voucher_is_covered_by_what_its_channel_holds_and_gets(
    balance: int, added: int, amount: int
) -> None:
    state = ChannelOnChain(
        balance=balance,
        claimed=0,
        withdrawal=0,
        withdrawal_started=0,
        refund_nonce=0,
    )
    wrong = wire.wrong_amount(state, amount, added=added)

    assert (wrong is None) == (0 < balance + added >= amount)


def test_what_it_supports_is_read_as_it_was_written() -> None:
    signer, authorizer = Address("0x" + "01" * 20), Address("0x" + "02" * 20)
    message = wire.supported(
        ChainId(5),
        schemes=("exact", "upto", "batch-settlement"),
        signers=(signer,),
        authorizer=authorizer,
    )
    answer = asks.parse_answer(SupportedAnswer, json.dumps(message).encode())
    upto = answer.find("upto", "eip155:5")

    assert upto is not None
    assert upto.extra is not None
    assert str(upto.extra["facilitatorAddress"]).lower() == signer
    assert answer.find("upto", "eip155:6") is None
