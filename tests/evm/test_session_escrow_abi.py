"""Calls, answers and events of the session escrow are those of its artifact."""

from collections.abc import Callable
from typing import Any

import pytest
from eth_abi.abi import decode, encode
from eth_utils.abi import collapse_if_tuple
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm import session_escrow_abi as abi
from agentpay.evm import session_escrow_events as events
from agentpay.evm.addresses import CREATE2_DEPLOYER, PERMIT2, SESSION_ESCROW
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.calls import Call, Log
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.permit2 import Permitted
from agentpay.evm.session_escrow import (
    CLOSE_TYPEHASH,
    OPEN_WITNESS_TYPEHASH,
    SETTLE_TYPEHASH,
    TOP_UP_WITNESS_TYPEHASH,
    VOUCHER_TYPEHASH,
    Escrow,
    SessionTerms,
)
from agentpay.types import (
    UINT128_MAX,
    UINT256_MAX,
    ZERO_ADDRESS,
    Address,
    ChainId,
    Hash32,
)

ARTIFACT = load_artifact("EVMPaymentChannel")
ESCROW = Escrow(chain=ChainId(31337), contract=SESSION_ESCROW)

ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda b: Address("0x" + b.hex()))
HASHES = st.binary(min_size=32, max_size=32).map(Hash32.of)
UINT64 = st.integers(0, 2**64 - 1)
UINT128 = st.integers(0, UINT128_MAX)
UINT256 = st.integers(0, UINT256_MAX)
SIGNATURES = st.binary(max_size=65)
TERMS = st.builds(
    SessionTerms,
    payer=ADDRESSES,
    payee=ADDRESSES,
    token=ADDRESSES,
    salt=HASHES,
    authorized_signer=st.just(ZERO_ADDRESS) | ADDRESSES,
)
AUTHORIZATIONS = st.builds(
    Authorization,
    payer=ADDRESSES,
    to=ADDRESSES,
    value=UINT128,
    valid_after=UINT256,
    valid_before=UINT256,
    nonce=HASHES,
)
PERMITTED = st.builds(
    Permitted,
    payer=ADDRESSES,
    token=ADDRESSES,
    amount=UINT128,
    nonce=UINT256,
    deadline=UINT256,
)
STATES = st.builds(
    abi.SessionOnChain,
    payer=ADDRESSES,
    payee=ADDRESSES,
    token=ADDRESSES,
    authorized_signer=st.just(ZERO_ADDRESS) | ADDRESSES,
    deposit=UINT128,
    settled=UINT128,
    close_requested_at=UINT64,
    finalized=st.booleans(),
)
# An ABI is JSON: `Any` stays in here.
Json = Any


def types_of(entry: Json) -> list[str]:
    return [collapse_if_tuple(field) for field in entry["inputs"]]


def entries(kind: str) -> dict[bytes, Json]:
    """What the artifact has of a kind, by the hash of its signature."""
    return {
        keccak(f"{entry['name']}({','.join(types_of(entry))})".encode()): entry
        for entry in ARTIFACT.abi
        if entry["type"] == kind
    }


FUNCTIONS = {whole[:4]: entry for whole, entry in entries("function").items()}


def read(call: Call) -> tuple[str, dict[str, object]]:
    """The function that the contract takes a call for, and its arguments."""
    assert call.to == ESCROW.contract
    entry = FUNCTIONS[call.data[:4]]
    values = decode(types_of(entry), call.data[4:])
    names = [field["name"] for field in entry["inputs"]]
    return entry["name"], dict(zip(names, values, strict=True))


def opening(terms: SessionTerms, deposit: int) -> dict[str, object]:
    return {
        "payee": terms.payee,
        "token": terms.token,
        "deposit": deposit,
        "salt": terms.salt.to_bytes(),
        "authorizedSigner": terms.authorized_signer,
    }


def authorized(authorization: Authorization, signature: bytes) -> dict[str, object]:
    return {
        "from": authorization.payer,
        "validAfter": authorization.valid_after,
        "validBefore": authorization.valid_before,
        "nonce": authorization.nonce.to_bytes(),
        "signature": signature,
    }


# What we ask.


@given(TERMS, UINT128)
def test_an_opening_is_what_the_contract_reads(
    terms: SessionTerms, deposit: int
) -> None:
    call = abi.open_call(terms, deposit, ESCROW)

    assert read(call) == ("open", opening(terms, deposit))
    assert terms.payer in call.what


@given(TERMS, AUTHORIZATIONS, SIGNATURES)
def test_an_opening_by_eip3009_is_what_the_contract_reads(
    terms: SessionTerms, authorization: Authorization, signature: bytes
) -> None:
    call = abi.open_with_authorization_call(terms, authorization, signature, ESCROW)
    expected = opening(terms, authorization.value) | authorized(
        authorization, signature
    )

    assert read(call) == ("openWithAuthorization", expected)


@given(TERMS, PERMITTED, SIGNATURES)
def test_an_opening_by_permit2_is_what_the_contract_reads(
    terms: SessionTerms, permitted: Permitted, signature: bytes
) -> None:
    call = abi.open_with_permit2_call(terms, permitted, signature, ESCROW)
    expected = opening(terms, permitted.amount) | {
        "from": permitted.payer,
        "nonce": permitted.nonce,
        "deadline": permitted.deadline,
        "signature": signature,
    }

    assert read(call) == ("openWithPermit2", expected)


@given(HASHES, UINT128)
def test_a_top_up_is_what_the_contract_reads(channel: Hash32, amount: int) -> None:
    expected = {"channelId": channel.to_bytes(), "additionalDeposit": amount}

    assert read(abi.top_up_call(channel, amount, ESCROW)) == ("topUp", expected)


@given(HASHES, AUTHORIZATIONS, HASHES, SIGNATURES)
def test_a_top_up_by_eip3009_is_what_the_contract_reads(
    channel: Hash32, authorization: Authorization, salt: Hash32, signature: bytes
) -> None:
    call = abi.top_up_with_authorization_call(
        channel, authorization, salt=salt, signature=signature, escrow=ESCROW
    )
    expected = {
        "channelId": channel.to_bytes(),
        "additionalDeposit": authorization.value,
        "topUpSalt": salt.to_bytes(),
    } | authorized(authorization, signature)

    assert read(call) == ("topUpWithAuthorization", expected)


@given(HASHES, PERMITTED, SIGNATURES)
def test_a_top_up_by_permit2_is_what_the_contract_reads(
    channel: Hash32, permitted: Permitted, signature: bytes
) -> None:
    call = abi.top_up_with_permit2_call(channel, permitted, signature, ESCROW)
    expected = {
        "channelId": channel.to_bytes(),
        "additionalDeposit": permitted.amount,
        "from": permitted.payer,
        "nonce": permitted.nonce,
        "deadline": permitted.deadline,
        "signature": signature,
    }

    assert read(call) == ("topUpWithPermit2", expected)


@given(HASHES, UINT128, SIGNATURES)
def test_the_payees_own_calls_are_what_the_contract_reads(
    channel: Hash32, cumulative: int, signature: bytes
) -> None:
    expected = {
        "channelId": channel.to_bytes(),
        "cumulativeAmount": cumulative,
        "signature": signature,
    }

    assert read(abi.settle_call(channel, cumulative, signature, ESCROW)) == (
        "settle",
        expected,
    )
    assert read(abi.close_call(channel, cumulative, signature, ESCROW)) == (
        "close",
        expected,
    )


@given(HASHES, UINT128, st.tuples(UINT256, UINT256), SIGNATURES, SIGNATURES)
def test_relayed_orders_are_what_the_contract_reads(
    channel: Hash32,
    cumulative: int,
    numbers: tuple[int, int],
    payee_signature: bytes,
    voucher_signature: bytes,
) -> None:
    nonce, deadline = numbers
    expected = {
        "channelId": channel.to_bytes(),
        "cumulativeAmount": cumulative,
        "nonce": nonce,
        "deadline": deadline,
        "payeeSignature": payee_signature,
        "voucherSignature": voucher_signature,
    }
    calls = {
        "settleWithAuthorization": abi.settle_with_authorization_call,
        "closeWithAuthorization": abi.close_with_authorization_call,
    }
    for name, make in calls.items():
        call = make(
            channel,
            cumulative,
            nonce=nonce,
            deadline=deadline,
            payee_signature=payee_signature,
            voucher_signature=voucher_signature,
            escrow=ESCROW,
        )
        assert read(call) == (name, expected)


@given(HASHES, UINT256)
def test_exits_and_reads_are_what_the_contract_reads(
    channel: Hash32, nonce: int
) -> None:
    of = {"channelId": channel.to_bytes()}

    assert read(abi.request_close_call(channel, ESCROW)) == ("requestClose", of)
    assert read(abi.withdraw_call(channel, ESCROW)) == ("withdraw", of)
    assert read(abi.channel_state_call(channel, ESCROW)) == ("getChannel", of)
    assert read(abi.channel_states_call([channel] * 2, ESCROW)) == (
        "getChannelsBatch",
        {"channelIds": (channel.to_bytes(),) * 2},
    )
    assert read(abi.nonce_used_call(channel, nonce, ESCROW)) == (
        "isNonceUsed",
        of | {"nonce": nonce},
    )
    assert read(abi.grace_seconds_call(ESCROW)) == ("CLOSE_GRACE_PERIOD", {})
    assert read(abi.separator_call(ESCROW)) == ("domainSeparator", {})


TOO_MUCH = UINT128_MAX + 1
NO_HASH = Hash32("0x" + "22" * 32)
SOMEBODY = Address("0x" + "11" * 20)
SOME_TERMS = SessionTerms(payer=SOMEBODY, payee=SOMEBODY, token=SOMEBODY, salt=NO_HASH)
MUCH_SIGNED = Authorization(
    payer=SOMEBODY,
    to=SOMEBODY,
    value=TOO_MUCH,
    valid_after=0,
    valid_before=1,
    nonce=NO_HASH,
)
MUCH_PERMITTED = Permitted(
    payer=SOMEBODY, token=SOMEBODY, amount=TOO_MUCH, nonce=0, deadline=1
)


@pytest.mark.parametrize(
    "make",
    [
        lambda: abi.open_call(SOME_TERMS, TOO_MUCH, ESCROW),
        lambda: abi.open_call(SOME_TERMS, -1, ESCROW),
        lambda: abi.open_with_authorization_call(SOME_TERMS, MUCH_SIGNED, b"", ESCROW),
        lambda: abi.open_with_permit2_call(SOME_TERMS, MUCH_PERMITTED, b"", ESCROW),
        lambda: abi.top_up_call(NO_HASH, TOO_MUCH, ESCROW),
        lambda: abi.top_up_with_authorization_call(
            NO_HASH, MUCH_SIGNED, salt=NO_HASH, signature=b"", escrow=ESCROW
        ),
        lambda: abi.top_up_with_permit2_call(NO_HASH, MUCH_PERMITTED, b"", ESCROW),
        lambda: abi.settle_call(NO_HASH, TOO_MUCH, b"", ESCROW),
        lambda: abi.close_call(NO_HASH, TOO_MUCH, b"", ESCROW),
    ],
)
def test_k10_what_the_contract_would_cut_is_not_encoded(
    make: Callable[[], Call],
) -> None:
    with pytest.raises(ValueError, match="uint128"):
        make()


# What it answers.


def answer_of(state: abi.SessionOnChain) -> bytes:
    [function] = [f for f in FUNCTIONS.values() if f["name"] == "getChannel"]
    [output] = function["outputs"]
    fields = [
        state.payer,
        state.payee,
        state.token,
        state.authorized_signer,
        state.deposit,
        state.settled,
        state.close_requested_at,
        state.finalized,
    ]
    return encode([collapse_if_tuple(output)], [fields])


@given(STATES)
def test_a_channel_is_read_as_the_contract_writes_it(
    state: abi.SessionOnChain,
) -> None:
    assert abi.decode_channel_state(answer_of(state)) == state


@given(st.lists(STATES, max_size=4))
def test_many_channels_are_read_in_their_order(
    states: list[abi.SessionOnChain],
) -> None:
    head = (32).to_bytes(32, "big") + len(states).to_bytes(32, "big")
    answer = head + b"".join(answer_of(state) for state in states)

    assert abi.decode_channel_states(answer) == states


@given(st.binary(max_size=600))
def test_other_answers_are_refused(answer: bytes) -> None:
    # 256 zeros are the answer for a channel that is not there.
    if answer != bytes(256):
        with pytest.raises(ValueError, match="is not there"):
            abi.decode_channel_state(answer)
    with pytest.raises(ValueError, match="is not there"):
        abi.decode_channel_states(answer)


@given(STATES)
def test_a_state_says_who_signs_and_what_is_left(state: abi.SessionOnChain) -> None:
    named = state.authorized_signer != ZERO_ADDRESS

    assert state.signer == (state.authorized_signer if named else state.payer)
    assert state.exists == (state.payee != ZERO_ADDRESS)
    if state.finalized:
        assert state.unsettled == 0
    else:
        assert state.unsettled == state.deposit - state.settled


def test_a_channel_that_is_not_there_does_not_exist() -> None:
    assert not abi.decode_channel_state(bytes(256)).exists


def test_errors_are_those_of_the_contract() -> None:
    inherited = {
        "ReentrancyGuardReentrantCall",
        "SafeERC20FailedOperation",
    }
    theirs = {whole[:4]: e["name"] for whole, e in entries("error").items()}

    assert {
        selector: name for selector, name in theirs.items() if name not in inherited
    } == abi.ERROR_NAMES


def test_events_are_those_of_the_contract() -> None:
    ours = {
        events.CHANNEL_OPENED: "ChannelOpened",
        events.SETTLED: "Settled",
        events.TOP_UP: "TopUp",
        events.CLOSE_REQUESTED: "CloseRequested",
        events.CLOSE_REQUEST_CANCELLED: "CloseRequestCancelled",
        events.CHANNEL_CLOSED: "ChannelClosed",
    }
    theirs = {Hash32.of(whole): e["name"] for whole, e in entries("event").items()}
    theirs = {topic: n for topic, n in theirs.items() if n != "EIP712DomainChanged"}

    assert ours == theirs


# What it says.


def log_of(name: str, values: dict[str, object]) -> Log:
    """A log as the contract writes it, by the artifact."""
    [(whole, entry)] = [
        (w, e) for w, e in entries("event").items() if e["name"] == name
    ]
    indexed = [field for field in entry["inputs"] if field["indexed"]]
    plain = [field for field in entry["inputs"] if not field["indexed"]]
    topics = [
        Hash32.of(encode([field["type"]], [values[field["name"]]])) for field in indexed
    ]
    return Log(
        address=SESSION_ESCROW,
        topics=(Hash32.of(whole), *topics),
        data=encode(
            [field["type"] for field in plain],
            [values[field["name"]] for field in plain],
        ),
        block=1,
        transaction=NO_HASH,
        index=0,
    )


@given(HASHES, TERMS, UINT256)
def test_an_opening_is_read_from_its_log(
    channel: Hash32, terms: SessionTerms, deposit: int
) -> None:
    log = log_of(
        "ChannelOpened",
        {
            "channelId": channel.to_bytes(),
            "payer": terms.payer,
            "payee": terms.payee,
            "token": terms.token,
            "authorizedSigner": terms.authorized_signer,
            "salt": terms.salt.to_bytes(),
            "deposit": deposit,
        },
    )
    opened = events.decode_event(log, ESCROW)

    assert isinstance(opened, events.ChannelOpened)
    assert opened.channel == channel
    assert opened.terms == terms
    assert opened.deposit == deposit


@given(HASHES, ADDRESSES, ADDRESSES, UINT256, UINT256)
def test_what_happens_to_a_channel_is_read_from_its_logs(
    channel: Hash32, payer: Address, payee: Address, a: int, b: int
) -> None:
    of: dict[str, object] = {
        "channelId": channel.to_bytes(),
        "payer": payer,
        "payee": payee,
    }
    logs = [
        log_of(
            "Settled", of | {"cumulativeAmount": b, "deltaPaid": a, "newSettled": b}
        ),
        log_of("TopUp", of | {"additionalDeposit": a, "newDeposit": b}),
        log_of("CloseRequested", of | {"closeGraceEnd": a}),
        log_of("CloseRequestCancelled", of),
        log_of("ChannelClosed", of | {"settledToPayee": a, "refundedToPayer": b}),
    ]
    said = [
        events.Settled(channel=channel, payer=payer, payee=payee, paid=a, settled=b),
        events.ToppedUp(channel=channel, payer=payer, payee=payee, added=a, deposit=b),
        events.CloseRequested(channel=channel, payer=payer, payee=payee, grace_end=a),
        events.CloseRequestCancelled(channel=channel, payer=payer, payee=payee),
        events.ChannelClosed(
            channel=channel, payer=payer, payee=payee, settled=a, refunded=b
        ),
    ]

    assert list(events.events_in(logs, ESCROW)) == said
    elsewhere = Escrow(chain=ESCROW.chain, contract=PERMIT2)
    assert list(events.events_in(logs, elsewhere)) == []


@given(
    st.lists(
        st.sampled_from([events.SETTLED, events.TOP_UP, events.CHANNEL_OPENED])
        | HASHES,
        max_size=5,
    ),
    st.binary(max_size=140),
)
def test_a_log_of_another_shape_is_no_event(topics: list[Hash32], data: bytes) -> None:
    log = Log(
        address=SESSION_ESCROW,
        topics=tuple(topics),
        data=data,
        block=1,
        transaction=NO_HASH,
        index=0,
    )
    event = events.decode_event(log, ESCROW)

    assert event is None or (len(topics) == 4 and len(data) % 32 == 0)


# Where it is.


def test_the_address_is_what_the_deployer_makes_of_the_artifact() -> None:
    call = abi.deploy_call()
    salt, creation = call.data[:32], call.data[32:]
    parts = b"\xff" + CREATE2_DEPLOYER.to_bytes() + salt + keccak(creation)

    assert call.to == CREATE2_DEPLOYER
    assert creation == ARTIFACT.creation
    assert Address("0x" + keccak(parts)[12:].hex()) == SESSION_ESCROW, (
        "the contract's bytes changed, and its address with them: if that is meant,"
        " write the new one into agentpay.evm.addresses"
    )


def test_type_hashes_are_in_the_code_as_we_hash_them() -> None:
    for type_hash in (
        VOUCHER_TYPEHASH,
        SETTLE_TYPEHASH,
        CLOSE_TYPEHASH,
        OPEN_WITNESS_TYPEHASH,
        TOP_UP_WITNESS_TYPEHASH,
    ):
        assert type_hash in ARTIFACT.runtime
