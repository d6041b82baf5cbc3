"""
Calls of the escrow contract of MPP's `evm/session`, and what it says of a channel.

Functions and errors are those of draft-evm-session-00 ("Contract Functions", "Relayed /
Gasless Operations Profile", "Contract Errors"). The draft leaves the views open: here
they are those of the Tempo channel that it is modelled on. Events are in
`session_escrow_events`. Nothing here talks to a chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from agentpay.evm.addresses import CREATE2_DEPLOYER, SESSION_ESCROW
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.calls import Call
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.hashing import selector, uint_word
from agentpay.evm.permit2 import Permitted
from agentpay.evm.session_escrow import Escrow, SessionTerms
from agentpay.types import UINT128_MAX, ZERO_ADDRESS, Address, Hash32

_CHANNEL = "(address,address,address,address,uint128,uint128,uint64,bool)"
_CHANNEL_BYTES = 8 * 32
_OPENING = ("address", "address", "uint128", "bytes32", "address")
_PULL_3009 = ("uint256", "uint256", "bytes32", "bytes")
_PULL_PERMIT2 = ("uint256", "uint256", "bytes")
_VOUCHER = ("bytes32", "uint128", "bytes")
_ORDER = ("bytes32", "uint128", "uint256", "uint256", "bytes", "bytes")

_NO_SALT = bytes(32)
"""The salt that `SESSION_ESCROW` is made of."""

ERROR_NAMES: Final = {
    selector(f"{name}()"): name
    for name in (
        "ChannelAlreadyExists",
        "ChannelNotFound",
        "ChannelFinalized",
        "NotPayee",
        "NotPayer",
        "InvalidPayee",
        "InvalidToken",
        "AmountNotIncreasing",
        "AmountExceedsDeposit",
        "InvalidSignature",
        "NonceMismatch",
        "NonceAlreadyUsed",
        "AuthorizationExpired",
        "CloseNotReady",
        "ZeroDeposit",
        "DepositOverflow",
        "DepositCollectionFailed",
    )
}
"""The contract's errors by selector, to name a revert by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOnChain:
    """What the contract says of a channel."""

    payer: Address
    payee: Address
    token: Address
    authorized_signer: Address
    deposit: int
    """Everything that was ever put in."""
    settled: int
    """What of it went to the payee."""
    close_requested_at: int
    """When the payer asked to leave (block time), or 0."""
    finalized: bool

    @property
    def exists(self) -> bool:
        """Whether it was ever opened."""
        return self.payee != ZERO_ADDRESS

    @property
    def signer(self) -> Address:
        """Whose vouchers count."""
        delegated = self.authorized_signer != ZERO_ADDRESS
        return self.authorized_signer if delegated else self.payer

    @property
    def unsettled(self) -> int:
        """What is still in it."""
        return 0 if self.finalized else self.deposit - self.settled


def deploy_call() -> Call:
    """Put the contract at `SESSION_ESCROW`; anyone may, once per chain."""
    data = _NO_SALT + load_artifact("EVMPaymentChannel").creation
    what = f"deploy the session escrow at {SESSION_ESCROW}"
    return Call(to=CREATE2_DEPLOYER, data=data, what=what)


def open_call(terms: SessionTerms, deposit: int, escrow: Escrow) -> Call:
    """Open a channel with approved tokens, as its payer."""
    data = _data("open", _OPENING, _opening(terms, deposit))
    return Call(to=escrow.contract, data=data, what=_open_what(terms, deposit))


def open_with_authorization_call(
    terms: SessionTerms, authorization: Authorization, signature: bytes, escrow: Escrow
) -> Call:
    """
    Open a channel by a `receiveWithAuthorization` that its payer signed.

    Raises:
        ValueError: More than a channel can hold.
    """
    data = _data(
        "openWithAuthorization",
        (*_OPENING, "address", *_PULL_3009),
        (
            *_opening(terms, authorization.value),
            authorization.payer,
            *_authorized(authorization, signature),
        ),
    )
    what = _open_what(terms, authorization.value)
    return Call(to=escrow.contract, data=data, what=what)


def open_with_permit2_call(
    terms: SessionTerms, permitted: Permitted, signature: bytes, escrow: Escrow
) -> Call:
    """
    Open a channel by a Permit2 transfer that its payer signed.

    Raises:
        ValueError: More than a channel can hold.
    """
    data = _data(
        "openWithPermit2",
        (*_OPENING, "address", *_PULL_PERMIT2),
        (
            *_opening(terms, permitted.amount),
            permitted.payer,
            permitted.nonce,
            permitted.deadline,
            signature,
        ),
    )
    what = _open_what(terms, permitted.amount)
    return Call(to=escrow.contract, data=data, what=what)


def top_up_call(channel: Hash32, amount: int, escrow: Escrow) -> Call:
    """Add approved tokens, as the channel's payer; voids its request to close."""
    data = _data(
        "topUp", ("bytes32", "uint128"), (channel.to_bytes(), _uint128(amount))
    )
    return Call(to=escrow.contract, data=data, what=f"top up {channel} by {amount}")


def top_up_with_authorization_call(
    channel: Hash32,
    authorization: Authorization,
    *,
    salt: Hash32,
    signature: bytes,
    escrow: Escrow,
) -> Call:
    """
    Add tokens by a `receiveWithAuthorization` that anybody signed.

    Raises:
        ValueError: More than a channel can hold.
    """
    data = _data(
        "topUpWithAuthorization",
        ("bytes32", "uint128", "address", "bytes32", *_PULL_3009),
        (
            channel.to_bytes(),
            _uint128(authorization.value),
            authorization.payer,
            salt.to_bytes(),
            *_authorized(authorization, signature),
        ),
    )
    what = f"top up {channel} by {authorization.value}"
    return Call(to=escrow.contract, data=data, what=what)


def top_up_with_permit2_call(
    channel: Hash32, permitted: Permitted, signature: bytes, escrow: Escrow
) -> Call:
    """
    Add tokens by a Permit2 transfer that anybody signed.

    Raises:
        ValueError: More than a channel can hold.
    """
    data = _data(
        "topUpWithPermit2",
        ("bytes32", "uint128", "address", *_PULL_PERMIT2),
        (
            channel.to_bytes(),
            _uint128(permitted.amount),
            permitted.payer,
            permitted.nonce,
            permitted.deadline,
            signature,
        ),
    )
    what = f"top up {channel} by {permitted.amount}"
    return Call(to=escrow.contract, data=data, what=what)


def settle_call(
    channel: Hash32, cumulative: int, voucher_signature: bytes, escrow: Escrow
) -> Call:
    """Take what a voucher allows, as the payee."""
    values = (channel.to_bytes(), _uint128(cumulative), voucher_signature)
    data = _data("settle", _VOUCHER, values)
    what = f"settle {channel} up to {cumulative}"
    return Call(to=escrow.contract, data=data, what=what)


def close_call(
    channel: Hash32, cumulative: int, voucher_signature: bytes, escrow: Escrow
) -> Call:
    """
    Take what a voucher allows and return the rest, as the payee.

    Up to what was settled already the signature may be empty: nothing more is taken.
    """
    values = (channel.to_bytes(), _uint128(cumulative), voucher_signature)
    data = _data("close", _VOUCHER, values)
    what = f"close {channel} at {cumulative}"
    return Call(to=escrow.contract, data=data, what=what)


def settle_with_authorization_call(
    channel: Hash32,
    cumulative: int,
    *,
    nonce: int,
    deadline: int,
    payee_signature: bytes,
    voucher_signature: bytes,
    escrow: Escrow,
) -> Call:
    """As `settle_call`, but anyone may send it: the payee signed it."""
    order = (channel.to_bytes(), _uint128(cumulative), nonce, deadline)
    values = (*order, payee_signature, voucher_signature)
    data = _data("settleWithAuthorization", _ORDER, values)
    what = f"settle {channel} up to {cumulative}"
    return Call(to=escrow.contract, data=data, what=what)


def close_with_authorization_call(
    channel: Hash32,
    cumulative: int,
    *,
    nonce: int,
    deadline: int,
    payee_signature: bytes,
    voucher_signature: bytes,
    escrow: Escrow,
) -> Call:
    """As `close_call`, but anyone may send it: the payee signed it."""
    order = (channel.to_bytes(), _uint128(cumulative), nonce, deadline)
    values = (*order, payee_signature, voucher_signature)
    data = _data("closeWithAuthorization", _ORDER, values)
    what = f"close {channel} at {cumulative}"
    return Call(to=escrow.contract, data=data, what=what)


def request_close_call(channel: Hash32, escrow: Escrow) -> Call:
    """Start the payer's own exit, which needs nobody's consent but a delay."""
    data = _data("requestClose", ("bytes32",), (channel.to_bytes(),))
    return Call(to=escrow.contract, data=data, what=f"start leaving {channel}")


def withdraw_call(channel: Hash32, escrow: Escrow) -> Call:
    """Finish the payer's own exit once the grace period is over."""
    data = _data("withdraw", ("bytes32",), (channel.to_bytes(),))
    return Call(to=escrow.contract, data=data, what=f"leave {channel}")


def channel_state_call(channel: Hash32, escrow: Escrow) -> Call:
    """The read that makes a `SessionOnChain`."""
    data = _data("getChannel", ("bytes32",), (channel.to_bytes(),))
    return Call(to=escrow.contract, data=data, what=f"read channel {channel}")


def decode_channel_state(answer: bytes) -> SessionOnChain:
    """
    Read the answer to `channel_state_call`.

    Raises:
        ValueError: It is not what the contract answers.
    """
    if len(answer) != _CHANNEL_BYTES:
        raise ValueError("the session escrow is not there, or is another")
    return _channel_of(answer)


def channel_states_call(channels: Sequence[Hash32], escrow: Escrow) -> Call:
    """The same of many channels at once."""
    ids = [channel.to_bytes() for channel in channels]
    data = _data("getChannelsBatch", ("bytes32[]",), (ids,))
    return Call(to=escrow.contract, data=data, what=f"read {len(ids)} channel(s)")


def decode_channel_states(answer: bytes) -> list[SessionOnChain]:
    """
    Read the answer to `channel_states_call`, in the order that was asked.

    Raises:
        ValueError: It is not what the contract answers.
    """
    head, body = answer[:64], answer[64:]
    count, rest = divmod(len(body), _CHANNEL_BYTES)
    if rest or head != uint_word(32) + uint_word(count):
        raise ValueError("the session escrow is not there, or is another")
    parts = (body[n * _CHANNEL_BYTES :][:_CHANNEL_BYTES] for n in range(count))
    return [_channel_of(part) for part in parts]


def nonce_used_call(channel: Hash32, nonce: int, escrow: Escrow) -> Call:
    """Whether an order of the payee was carried out: one bool; only our contract."""
    data = _data("isNonceUsed", ("bytes32", "uint256"), (channel.to_bytes(), nonce))
    return Call(to=escrow.contract, data=data, what=f"read order {nonce} of {channel}")


def grace_seconds_call(escrow: Escrow) -> Call:
    """How long a payee can still settle after `requestClose`: one uint."""
    data = _data("CLOSE_GRACE_PERIOD", (), ())
    return Call(to=escrow.contract, data=data, what="read the grace period")


def separator_call(escrow: Escrow) -> Call:
    """The contract's EIP-712 domain separator: one word."""
    data = _data("domainSeparator", (), ())
    return Call(to=escrow.contract, data=data, what="read the domain separator")


def _data(name: str, types: Sequence[str], values: Sequence[object]) -> bytes:
    return selector(f"{name}({','.join(types)})") + encode(types, values)


def _uint128(value: int) -> int:
    if not 0 <= value <= UINT128_MAX:
        raise ValueError(f"{value} is not a uint128")
    return value


def _opening(terms: SessionTerms, deposit: int) -> tuple[object, ...]:
    amount, salt = _uint128(deposit), terms.salt.to_bytes()
    return (terms.payee, terms.token, amount, salt, terms.authorized_signer)


def _authorized(authorization: Authorization, signature: bytes) -> tuple[object, ...]:
    times = (authorization.valid_after, authorization.valid_before)
    return (*times, authorization.nonce.to_bytes(), signature)


def _open_what(terms: SessionTerms, deposit: int) -> str:
    return f"open a channel of {terms.payer} with {deposit} of {terms.token}"


def _channel_of(words: bytes) -> SessionOnChain:
    try:
        [fields] = decode([_CHANNEL], words)
    except DecodingError as error:
        raise ValueError("the session escrow is not there, or is another") from error
    payer, payee, token, signer, deposit, settled, requested_at, finalized = fields
    return SessionOnChain(
        payer=Address(payer),
        payee=Address(payee),
        token=Address(token),
        authorized_signer=Address(signer),
        deposit=deposit,
        settled=settled,
        close_requested_at=requested_at,
        finalized=finalized,
    )
