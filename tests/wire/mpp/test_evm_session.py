"""evm/session: every action of the draft, ours and the examples'."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage
from agentpay.evm.eip3009 import Authorization
from agentpay.types import UINT128_MAX, ZERO_ADDRESS, Address, ChainId, Hash32
from agentpay.wire import parallel
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp import evm_write as write
from agentpay.wire.mpp.evm_session import (
    ClosePayload,
    NeedVoucher,
    OpenByAuthorization,
    OpenByHash,
    OpenByPermit2,
    OpenDepositByAuthorization,
    OpenDepositByPermit2,
    TopUpByAuthorization,
    TopUpByHash,
    TopUpByPermit2,
    TopUpDepositByAuthorization,
    TopUpDepositByPermit2,
    VoucherPayload,
    parse_session_payload,
    parse_session_request,
)
from agentpay.wire.parallel import ParallelTerms

from .factories import addresses, chains, hashes, signatures, uint128, uint256
from .test_evm_charge import altered

REQUEST: dict[str, Any] = json.loads("""
{
  "amount": "100",
  "unitType": "llm_token",
  "suggestedDeposit": "5000000",
  "currency": "0x74b7F16337b8972027F6196A17a631ac6dE26d22",
  "recipient": "0x742d35cc6634c0532925a3b844bc9e7595f8fe00",
  "methodDetails": {
    "escrowContract": "0x1234567890abcdef1234567890abcdef12345678",
    "chainId": 196,
    "minVoucherDelta": "10000"
  }
}
""")
CHANNEL, OTHER, SALT = (Hash32("0x" + byte * 32) for byte in ("6d", "7e", "aa"))
PAYER = Address("0x" + "aa" * 20)
ESCROW = Address("0x" + "12" * 20)
SIGNER = Address("0x" + "74" * 20)
AUTHORIZATION = Authorization(
    payer=PAYER, to=ESCROW, value=500, valid_after=0, valid_before=9, nonce=OTHER
)
FIELDS = write.authorization_fields(AUTHORIZATION)
OPEN_PERMIT = write.open_permit(
    payer=PAYER,
    token=ESCROW,
    amount=500,
    nonce=1,
    deadline=9,
    payee=SIGNER,
    salt=SALT,
    authorized_signer=SIGNER,
)
TOP_UP_PERMIT = write.top_up_permit(
    payer=PAYER, token=ESCROW, amount=500, nonce=1, deadline=9, channel=CHANNEL
)
OPEN = write.open_by_server(
    "permit2",
    channel=CHANNEL,
    authorization=OPEN_PERMIT,
    signature=b"s",
    cumulative=0,
    voucher_signature=b"v",
    salt=SALT,
    authorized_signer=SIGNER,
)
TOP_UP = write.top_up_by_server(
    "permit2",
    channel=CHANNEL,
    amount=500,
    authorization=TOP_UP_PERMIT,
    signature=b"s",
    salt=None,
)
DEPOSIT = write.top_up_deposit(
    "permit2", authorization=TOP_UP_PERMIT, signature=b"s", salt=None
)
VOUCHER = write.voucher_payload(CHANNEL, 7, b"v", DEPOSIT)


def test_the_example_of_the_draft_is_read() -> None:
    request = parse_session_request(REQUEST)
    details = request.method_details

    assert (request.amount, request.suggested_deposit) == (100, 5_000_000)
    assert (details.chain_id, details.min_voucher_delta) == (196, 10_000)
    assert (details.credential_types, details.fee_payer) == (("hash",), False)
    assert details.channel_id is None


@given(
    chain=chains,
    currency=addresses,
    recipient=addresses,
    escrow=addresses,
    price=uint128,
    channel=st.none() | hashes,
)
def test_a_request_comes_back(
    *,
    chain: ChainId,
    currency: Address,
    recipient: Address,
    escrow: Address,
    price: int,
    channel: Hash32 | None,
) -> None:
    request = parse_session_request(
        write.session_request(
            chain=chain,
            currency=currency,
            recipient=recipient,
            escrow=escrow,
            unit_price=price,
            unit_type="llm_token",
            suggested_deposit=price,
            min_voucher_delta=0,
            fee_payer=True,
            credential_types=["authorization"],
            channel=channel,
        )
    )
    details = request.method_details

    assert (request.amount, request.currency) == (price, currency)
    assert (request.recipient, details.escrow_contract) == (recipient, escrow)
    assert (details.chain_id, details.channel_id) == (chain, channel)
    assert details.fee_payer


# What a client sends


@given(
    channel=hashes,
    transaction=hashes,
    cumulative=uint128,
    signature=signatures,
    salt=hashes,
    signer=st.just(ZERO_ADDRESS) | addresses,
)
def test_a_channel_that_was_opened_comes_back(
    *,
    channel: Hash32,
    transaction: Hash32,
    cumulative: int,
    signature: bytes,
    salt: Hash32,
    signer: Address,
) -> None:
    payload = parse_session_payload(
        write.open_by_hash(
            channel=channel,
            transaction=transaction,
            cumulative=cumulative,
            voucher_signature=signature,
            salt=salt,
            authorized_signer=signer,
        )
    )

    assert isinstance(payload, OpenByHash)
    assert (payload.channel_id, payload.transaction) == (channel, transaction)
    assert (payload.cumulative_amount, payload.signature) == (cumulative, signature)
    assert (payload.salt, payload.authorized_signer) == (salt, signer)


@given(uint128, uint256, hashes, st.just(ZERO_ADDRESS) | addresses)
def test_a_channel_for_the_server_to_open_comes_back(
    amount: int, nonce: int, salt: Hash32, signer: Address
) -> None:
    permit = write.open_permit(
        payer=PAYER,
        token=ESCROW,
        amount=amount,
        nonce=nonce,
        deadline=9,
        payee=SIGNER,
        salt=salt,
        authorized_signer=signer,
    )
    opened = {
        kind: parse_session_payload(
            write.open_by_server(
                kind,
                channel=CHANNEL,
                authorization=authorization,
                signature=b"s",
                cumulative=amount,
                voucher_signature=b"v",
                salt=salt,
                authorized_signer=signer,
            )
        )
        for kind, authorization in (("permit2", permit), ("authorization", FIELDS))
    }
    by_permit, by_authorization = opened["permit2"], opened["authorization"]

    assert isinstance(by_permit, OpenByPermit2)
    assert isinstance(by_authorization, OpenByAuthorization)
    assert by_permit.authorization.permitted.amount == amount
    assert by_permit.authorization.nonce == nonce
    assert by_authorization.authorization.value == 500
    for payload in (by_permit, by_authorization):
        assert (payload.salt, payload.authorized_signer) == (salt, signer)
        assert (payload.signature, payload.voucher_signature) == (b"s", b"v")


@given(hashes, hashes, uint128)
def test_a_deposit_comes_back(
    channel: Hash32, transaction: Hash32, amount: int
) -> None:
    payload = parse_session_payload(write.top_up_by_hash(channel, transaction, amount))

    assert isinstance(payload, TopUpByHash)
    assert (payload.channel_id, payload.transaction) == (channel, transaction)
    assert payload.additional_deposit == amount


def test_a_deposit_for_the_server_to_make_comes_back() -> None:
    by_permit = parse_session_payload(TOP_UP)
    by_authorization = parse_session_payload(
        write.top_up_by_server(
            "authorization",
            channel=CHANNEL,
            amount=500,
            authorization=FIELDS,
            signature=b"s",
            salt=SALT,
        )
    )

    assert isinstance(by_permit, TopUpByPermit2)
    assert isinstance(by_authorization, TopUpByAuthorization)
    assert by_authorization.salt == SALT


@given(hashes, uint128, signatures)
def test_a_voucher_comes_back(
    channel: Hash32, cumulative: int, signature: bytes
) -> None:
    voucher = parse_session_payload(
        write.voucher_payload(channel, cumulative, signature)
    )
    close = parse_session_payload(write.close_payload(channel, cumulative, signature))

    assert isinstance(voucher, VoucherPayload)
    assert isinstance(close, ClosePayload)
    assert voucher.deposit is None
    for payload in (voucher, close):
        assert (payload.channel_id, payload.signature) == (channel, signature)
        assert payload.cumulative_amount == cumulative


@pytest.mark.parametrize(
    ("deposit", "model"),
    [
        (
            write.open_deposit(
                "authorization", authorization=FIELDS, signature=b"s", salt=SALT
            ),
            OpenDepositByAuthorization,
        ),
        (
            write.open_deposit(
                "permit2",
                authorization=OPEN_PERMIT,
                signature=b"s",
                salt=SALT,
                authorized_signer=SIGNER,
            ),
            OpenDepositByPermit2,
        ),
        (
            write.top_up_deposit(
                "authorization", authorization=FIELDS, signature=b"s", salt=SALT
            ),
            TopUpDepositByAuthorization,
        ),
        (DEPOSIT, TopUpDepositByPermit2),
    ],
)
def test_a_voucher_brings_its_deposit(deposit: JsonObject, model: type) -> None:
    payload = parse_session_payload(write.voucher_payload(CHANNEL, 7, b"v", deposit))

    assert isinstance(payload, VoucherPayload)
    assert isinstance(payload.deposit, model)


@given(uint128, uint128)
def test_a_voucher_says_which_request_it_raises(request: int, maximum: int) -> None:
    raises = (request, maximum)
    payload = parse_session_payload(
        write.voucher_payload(CHANNEL, 7, b"v", raises=raises)
    )

    assert isinstance(payload, VoucherPayload)
    assert payload.raises is not None
    assert (payload.raises.cumulative, payload.raises.maximum) == raises


@given(hashes, uint128, uint128, uint128)
def test_what_a_stream_waits_for_comes_back(
    channel: Hash32, required: int, accepted: int, deposit: int
) -> None:
    need = NeedVoucher.model_validate(
        write.need_voucher(
            channel, required=required, accepted=accepted, deposit=deposit
        )
    )

    assert (need.channel_id, need.required_cumulative) == (channel, required)
    assert (need.accepted_cumulative, need.deposit) == (accepted, deposit)


# What is refused


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("amount", None),
        ("amount", "0.5"),
        ("amount", str(UINT128_MAX + 1)),
        ("suggestedDeposit", 5),
        ("methodDetails.escrowContract", None),
        ("methodDetails.chainId", "196"),
        ("methodDetails.minVoucherDelta", 1),
        ("methodDetails.feePayer", "true"),
        ("methodDetails.feePayer", 1),
        ("methodDetails.channelId", "0x6d"),
        ("unitType", "x" * 65),
    ],
)
def test_a_request_that_is_not_of_its_form_is_refused(path: str, value: object) -> None:
    message = altered({**REQUEST, "unitType": "x"}, path, value)
    with pytest.raises(MalformedMessage, match="request: "):
        parse_session_request(message)


@pytest.mark.parametrize(
    ("message", "path", "value"),
    [
        (OPEN, "action", "steal"),
        (OPEN, "action", None),
        (OPEN, "type", "transaction"),
        (OPEN, "type", "authorization"),
        (OPEN, "cumulativeAmount", str(UINT128_MAX + 1)),
        (OPEN, "cumulativeAmount", 0),
        (OPEN, "voucherSignature", None),
        (OPEN, "salt", str(OTHER)),
        (OPEN, "authorizedSigner", str(PAYER)),
        (OPEN, "authorizedSigner", None),
        (OPEN, "authorization.from", None),
        (OPEN, "authorization.witness", None),
        (TOP_UP, "additionalDeposit", "501"),
        (TOP_UP, "channelId", str(OTHER)),
        (VOUCHER, "channelId", str(OTHER)),
        (VOUCHER, "deposit.action", "close"),
        (VOUCHER, "deposit.type", "hash"),
        (VOUCHER, "deposit.signature", None),
        (VOUCHER, "cumulativeAmount", "-1"),
        (write.close_payload(CHANNEL, 7, b"v"), "signature", None),
    ],
)
def test_a_payload_that_is_not_of_its_form_is_refused(
    message: dict[str, Any], path: str, value: object
) -> None:
    parse_session_payload(message)

    with pytest.raises(MalformedMessage, match="payload: "):
        parse_session_payload(altered(message, path, value))


@pytest.mark.parametrize(
    ("authorization", "amount"),
    [({**FIELDS, "value": "501"}, 500), (FIELDS, 499)],
)
def test_a_deposit_is_what_was_authorized(
    authorization: JsonObject, amount: int
) -> None:
    with pytest.raises(MalformedMessage, match="what is authorized"):
        parse_session_payload(
            write.top_up_by_server(
                "authorization",
                channel=CHANNEL,
                amount=amount,
                authorization=authorization,
                signature=b"s",
                salt=SALT,
            )
        )


def test_a_request_says_that_many_are_served_at_once() -> None:
    said = parallel.info(ParallelTerms(window=7, in_flight_max=3))
    request = write.session_request(
        chain=ChainId(196),
        currency=ESCROW,
        recipient=PAYER,
        escrow=ESCROW,
        unit_price=1,
        unit_type="request",
        suggested_deposit=1,
        min_voucher_delta=0,
        fee_payer=True,
        credential_types=("hash",),
        parallel=said,
    )
    details = request["methodDetails"]

    assert isinstance(details, dict)
    assert details[parallel.KEY] == {"version": 1, "window": 7, "maxInFlight": 3}
    assert parse_session_request(request).method_details.fee_payer
