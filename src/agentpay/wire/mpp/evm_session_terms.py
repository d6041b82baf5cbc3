"""
What the payload of a session must agree with: the challenge that it answers.

Source: draft-evm-session-00, "Open Payload", "TopUp Payload" and "Open Verification".
Hashing alone decides here, before a signature is recovered or gas is spent on a
transaction that would revert.
"""

from typing import TypeAlias, assert_never

from agentpay.errors import MalformedMessage
from agentpay.evm.session_escrow import (
    Escrow,
    SessionTerms,
    channel_id,
    open_nonce,
    top_up_nonce,
)
from agentpay.types import Address, Hash32
from agentpay.wire.mpp.evm_session import (
    OpenByAuthorization,
    OpenByHash,
    OpenByPermit2,
    OpenDepositByAuthorization,
    OpenDepositByPermit2,
    SessionRequest,
    TopUpByAuthorization,
    TopUpByHash,
    TopUpByPermit2,
    TopUpDepositByAuthorization,
    TopUpDepositByPermit2,
)

Opening: TypeAlias = (
    OpenByHash
    | OpenByAuthorization
    | OpenByPermit2
    | OpenDepositByAuthorization
    | OpenDepositByPermit2
)
ToppingUp: TypeAlias = (
    TopUpByHash
    | TopUpByAuthorization
    | TopUpByPermit2
    | TopUpDepositByAuthorization
    | TopUpDepositByPermit2
)


def escrow_of(request: SessionRequest) -> Escrow:
    """Where the channels of a challenge are."""
    details = request.method_details
    return Escrow(chain=details.chain_id, contract=details.escrow_contract)


def check_opening(
    opening: Opening,
    request: SessionRequest,
    *,
    channel: Hash32,
    source: Address | None,
) -> SessionTerms:
    """
    The terms of the channel that a payload, or the deposit of a voucher, opens.

    `channel` is what the payload calls it; `source` is the credential's, which a
    transaction that the client has sent needs.

    Raises:
        MalformedMessage: It does not agree with the challenge, or not with itself.
    """
    _check_type(opening.type, request)
    terms = SessionTerms(
        payer=_payer(opening, source),
        payee=request.recipient,
        token=request.currency,
        salt=opening.salt,
        authorized_signer=opening.authorized_signer,
    )
    match opening:
        case OpenByHash():
            pass
        case OpenByAuthorization() | OpenDepositByAuthorization():
            _agree("to", opening.authorization.to, escrow_of(request).contract)
            _agree("nonce", opening.authorization.nonce, open_nonce(terms))
        case OpenByPermit2() | OpenDepositByPermit2():
            authorization = opening.authorization
            _agree("token", authorization.permitted.token, request.currency)
            _agree("payee", authorization.witness.payee, request.recipient)
        case _:
            assert_never(opening)
    _agree("channelId", channel, channel_id(terms, escrow_of(request)))
    return terms


def check_top_up(
    top_up: ToppingUp, request: SessionRequest, *, channel: Hash32
) -> None:
    """
    Check a payload, or the deposit of a voucher, that fills up a channel.

    Raises:
        MalformedMessage: It does not agree with the challenge, or not with itself.
    """
    _check_type(top_up.type, request)
    match top_up:
        case TopUpByHash():
            pass
        case TopUpByAuthorization() | TopUpDepositByAuthorization():
            authorization = top_up.authorization
            nonce = top_up_nonce(
                channel,
                additional_deposit=authorization.value,
                payer=authorization.payer,
                salt=top_up.salt,
            )
            _agree("to", authorization.to, escrow_of(request).contract)
            _agree("nonce", authorization.nonce, nonce)
        case TopUpByPermit2() | TopUpDepositByPermit2():
            permit = top_up.authorization
            _agree("token", permit.permitted.token, request.currency)
            _agree("channelId", permit.witness.channel_id, channel)
        case _:
            assert_never(top_up)


def _payer(opening: Opening, source: Address | None) -> Address:
    if not isinstance(opening, OpenByHash):
        return opening.authorization.payer
    if source is None:
        raise MalformedMessage("credential: source is missing; a hash needs it")
    return source


def _check_type(kind: str, request: SessionRequest) -> None:
    accepted = request.method_details.credential_types
    if kind not in accepted:
        raise MalformedMessage(
            f"payload: type {kind!r} is none of those asked for: {', '.join(accepted)}"
        )


def _agree(name: str, given: str, expected: str) -> None:
    if given != expected:
        raise MalformedMessage(f"payload: {name} is {given} and must be {expected}")
