"""What opens or fills up a channel agrees with its challenge, in every word."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.session_escrow import (
    SessionTerms,
    channel_id,
    open_nonce,
    top_up_nonce,
)
from agentpay.types import ZERO_ADDRESS, Address, ChainId, Hash32
from agentpay.wire.mpp import evm_write as write
from agentpay.wire.mpp.evm_session import (
    OpenByAuthorization,
    OpenByHash,
    OpenByPermit2,
    SessionRequest,
    TopUpByAuthorization,
    TopUpByHash,
    TopUpByPermit2,
    VoucherPayload,
    parse_session_payload,
    parse_session_request,
)
from agentpay.wire.mpp.evm_session_terms import check_opening, check_top_up, escrow_of

from .factories import addresses, hashes, uint128

PAYER, PAYEE, TOKEN, ESCROW, OTHER = (
    Address("0x" + byte * 20) for byte in ("11", "22", "33", "44", "55")
)
SALT, ELSEWHERE = (Hash32("0x" + byte * 32) for byte in ("aa", "bb"))
KINDS = ["authorization", "permit2"]


def asked(*types: str) -> SessionRequest:
    return parse_session_request(
        write.session_request(
            chain=ChainId(8453),
            currency=TOKEN,
            recipient=PAYEE,
            escrow=ESCROW,
            unit_price=3,
            unit_type="llm_token",
            suggested_deposit=500,
            min_voucher_delta=0,
            fee_payer=True,
            credential_types=types or ("hash", *KINDS),
        )
    )


REQUEST = asked()
TERMS = SessionTerms(payer=PAYER, payee=PAYEE, token=TOKEN, salt=SALT)
CHANNEL = channel_id(TERMS, escrow_of(REQUEST))


def signed(nonce: Hash32, value: int = 500) -> Authorization:
    return Authorization(
        payer=PAYER, to=ESCROW, value=value, valid_after=0, valid_before=9, nonce=nonce
    )


def opening(
    kind: str, terms: SessionTerms, amount: int = 500, *, bundled: bool = False
) -> dict[str, Any]:
    """What a payer sends to open a channel."""
    common: dict[str, Any] = {
        "signature": b"s",
        "salt": terms.salt,
        "authorized_signer": terms.authorized_signer,
    }
    if kind == "authorization":
        authorization = signed(open_nonce(terms), amount)
        common["authorization"] = write.authorization_fields(
            replace(authorization, payer=terms.payer)
        )
    else:
        common["authorization"] = write.open_permit(
            payer=terms.payer,
            token=terms.token,
            amount=amount,
            nonce=1,
            deadline=9,
            payee=terms.payee,
            salt=terms.salt,
            authorized_signer=terms.authorized_signer,
        )
    channel = channel_id(terms, escrow_of(REQUEST))
    if bundled:
        deposit = write.open_deposit(kind, **common)
        return write.voucher_payload(channel, 0, b"v", deposit)
    return write.open_by_server(
        kind, channel=channel, cumulative=0, voucher_signature=b"v", **common
    )


def topping_up(
    kind: str, channel: Hash32 = CHANNEL, amount: int = 500, *, bundled: bool = False
) -> dict[str, Any]:
    """What a payer sends to fill up a channel."""
    nonce = top_up_nonce(channel, additional_deposit=amount, payer=PAYER, salt=SALT)
    by_token = kind == "authorization"
    common: dict[str, Any] = {
        "authorization": write.authorization_fields(signed(nonce, amount))
        if by_token
        else write.top_up_permit(
            payer=PAYER,
            token=TOKEN,
            amount=amount,
            nonce=1,
            deadline=9,
            channel=channel,
        ),
        "signature": b"s",
        "salt": SALT if by_token else None,
    }
    if bundled:
        deposit = write.top_up_deposit(kind, **common)
        return write.voucher_payload(channel, 0, b"v", deposit)
    return write.top_up_by_server(kind, channel=channel, amount=amount, **common)


def check(
    message: dict[str, Any],
    request: SessionRequest = REQUEST,
    source: Address | None = None,
) -> SessionTerms | None:
    payload = parse_session_payload(message)
    match payload:
        case OpenByHash() | OpenByAuthorization() | OpenByPermit2():
            return check_opening(
                payload, request, channel=payload.channel_id, source=source
            )
        case TopUpByHash() | TopUpByAuthorization() | TopUpByPermit2():
            check_top_up(payload, request, channel=payload.channel_id)
            return None
        case VoucherPayload(deposit=deposit) if deposit is not None:
            if deposit.action == "open":
                return check_opening(
                    deposit, request, channel=payload.channel_id, source=None
                )
            check_top_up(deposit, request, channel=payload.channel_id)
            return None
        case _:
            raise AssertionError(payload)


@given(
    kind=st.sampled_from(KINDS),
    payer=addresses,
    salt=hashes,
    signer=st.just(ZERO_ADDRESS) | addresses,
    amount=uint128,
    bundled=st.booleans(),
)
def test_what_opens_a_channel_is_known_by_its_terms(
    *,
    kind: str,
    payer: Address,
    salt: Hash32,
    signer: Address,
    amount: int,
    bundled: bool,
) -> None:
    terms = replace(TERMS, payer=payer, salt=salt, authorized_signer=signer)

    assert check(opening(kind, terms, amount, bundled=bundled)) == terms


@given(st.sampled_from(KINDS), hashes, uint128, st.booleans())
def test_what_fills_up_a_channel_is_for_that_channel(
    kind: str, channel: Hash32, amount: int, bundled: bool
) -> None:
    check(topping_up(kind, channel, amount, bundled=bundled))


def test_a_transaction_that_was_sent_needs_its_payer() -> None:
    message = write.open_by_hash(
        channel=CHANNEL,
        transaction=ELSEWHERE,
        cumulative=0,
        voucher_signature=b"v",
        salt=SALT,
    )

    assert check(message, source=PAYER) == TERMS
    check(write.top_up_by_hash(CHANNEL, ELSEWHERE, 500))
    with pytest.raises(MalformedMessage, match="source is missing"):
        check(message)
    with pytest.raises(MalformedMessage, match="channelId is"):
        check(message, source=OTHER)


@pytest.mark.parametrize("bundled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_was_not_asked_for_is_refused(kind: str, bundled: bool) -> None:
    for message in (
        opening(kind, TERMS, bundled=bundled),
        topping_up(kind, bundled=bundled),
    ):
        with pytest.raises(MalformedMessage, match="none of those asked for: hash"):
            check(message, asked("hash"))


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("authorization", {"payee": OTHER}, "nonce"),
        ("authorization", {"token": OTHER}, "nonce"),
        ("permit2", {"payee": OTHER}, "payee"),
        ("permit2", {"token": OTHER}, "token"),
    ],
)
def test_a_channel_for_somebody_else_is_refused(
    kind: str, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(MalformedMessage, match=f"payload: {why} is"):
        check(opening(kind, replace(TERMS, **change)))


def test_what_was_signed_for_something_else_is_refused() -> None:
    opens, fills = opening("authorization", TERMS), topping_up("authorization")
    for message in (opens, fills):
        fields = message["authorization"]
        for name, value in (("to", OTHER), ("nonce", ELSEWHERE), ("from", OTHER)):
            changed = {**message, "authorization": {**fields, name: str(value)}}
            with pytest.raises(MalformedMessage, match=r"payload: (to|nonce) is"):
                check(changed)
    permit = topping_up("permit2")
    permit["authorization"]["permitted"]["token"] = str(OTHER)
    with pytest.raises(MalformedMessage, match="payload: token is"):
        check(permit)


@pytest.mark.parametrize("kind", KINDS)
def test_a_channel_under_another_name_is_refused(kind: str) -> None:
    with pytest.raises(MalformedMessage, match="payload: channelId is"):
        check({**opening(kind, TERMS), "channelId": str(ELSEWHERE)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_deposit_fills_up_the_channel_of_its_voucher(kind: str) -> None:
    message = topping_up(kind, bundled=True)
    moved = {**message, "channelId": str(ELSEWHERE)}

    with pytest.raises(MalformedMessage, match=r"payload: .*(nonce|channel)"):
        check(moved)
