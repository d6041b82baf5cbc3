"""Calls of Permit2's spenders, as the compiled contracts understand them."""

from dataclasses import replace

import pytest
from eth_abi.abi import decode
from hypothesis import given
from hypothesis import strategies as st

from agentpay.chain.reverts import revert_reason
from agentpay.evm import permit2_abi
from agentpay.evm.addresses import (
    BATCH_SETTLEMENT,
    EXACT_PROXY,
    PERMIT2,
    PERMIT2_COLLECTOR,
    UPTO_PROXY,
)
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.evm.calls import Log
from agentpay.evm.eip2612 import SignedPermit
from agentpay.evm.eip3009_abi import TRANSFER
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.hashing import address_word, keccak, selector, uint_word
from agentpay.evm.networks import LOCAL
from agentpay.evm.permit2 import PermitTransfer, deposit_digest
from agentpay.evm.permit2_signed import Permit2Deposit, Permit2Transfer
from agentpay.types import Address, Hash32
from tests.evm.signed import (
    ADDRESSES,
    CONFIGS,
    EXACT,
    HASHES,
    SIGNATURES,
    UPTO,
    WORDS,
    Json,
    deposit_of,
    signature,
    signed_permit,
    understood,
)

SOMEBODY = Address("0x" + "11" * 20)
NEVER_SEEN = {
    # Of constructors.
    "InvalidPermit2Address",
    "InvalidX402BatchSettlementAddress",
    "InvalidShortString",
    "StringTooLong",
    # Of functions of OpenZeppelin's that are not called.
    "AddressEmptyCode",
    "ECDSAInvalidSignature",
    "ECDSAInvalidSignatureLength",
    "ECDSAInvalidSignatureS",
    "FailedCall",
    "InvalidAccountNonce",
}


def permit_for(transfer: PermitTransfer) -> SignedPermit:
    return signed_permit(transfer.payer, PERMIT2, transfer.amount, transfer.deadline)


def permitted(transfer: PermitTransfer) -> Json:
    return ((transfer.token, transfer.amount), transfer.nonce, transfer.deadline)


@given(EXACT, SIGNATURES, st.booleans())
def test_an_exact_payment_is_understood(
    transfer: PermitTransfer, signed: bytes, with_permit: bool
) -> None:
    permit = permit_for(transfer) if with_permit else None
    call = permit2_abi.settle_call(
        transfer, signed, amount=transfer.amount, permit=permit
    )
    name, said = understood("x402ExactPermit2Proxy", call)

    assert call.to == EXACT_PROXY
    assert said["permit"] == permitted(transfer)
    assert said["owner"] == transfer.payer
    assert said["witness"] == (transfer.to, transfer.valid_after)
    assert said["signature"] == signed
    assert name == ("settleWithPermit" if with_permit else "settle")
    if permit is not None:
        expected = (transfer.amount, transfer.deadline, permit.r, permit.s, permit.v)
        assert said["permit2612"] == expected


@given(UPTO, SIGNATURES, st.booleans(), st.data())
def test_an_upto_payment_is_understood(
    transfer: PermitTransfer,
    signed: bytes,
    with_permit: bool,
    data: st.DataObject,
) -> None:
    amount = data.draw(st.integers(1, transfer.amount))
    permit = permit_for(transfer) if with_permit else None
    call = permit2_abi.settle_call(transfer, signed, amount=amount, permit=permit)
    name, said = understood("x402UptoPermit2Proxy", call)

    assert call.to == UPTO_PROXY
    assert said["permit"] == permitted(transfer)
    assert (said["amount"], said["owner"]) == (amount, transfer.payer)
    assert said["witness"] == (transfer.to, transfer.facilitator, transfer.valid_after)
    assert said["signature"] == signed
    assert name == ("settleWithPermit" if with_permit else "settle")
    if permit is not None:
        assert said["permit2612"][0] == transfer.amount


@given(CONFIGS, HASHES, SIGNATURES, st.booleans())
def test_a_deposit_is_understood(
    config: ChannelConfig, channel: Hash32, signed: bytes, with_permit: bool
) -> None:
    deposit = deposit_of(config, channel)
    permit = (
        signed_permit(config.payer, PERMIT2, deposit.amount, 9) if with_permit else None
    )
    call = permit2_abi.permit2_deposit_call(config, deposit, signed, permit=permit)
    name, said = understood("x402BatchSettlement", call)
    shown = decode(["uint256", "uint256", "bytes", "bytes"], said["collectorData"])
    nonce, deadline, sent, granted = shown

    assert (call.to, name) == (BATCH_SETTLEMENT, "deposit")
    assert said["collector"] == PERMIT2_COLLECTOR
    assert said["amount"] == deposit.amount
    assert (nonce, deadline, sent) == (deposit.nonce, deposit.deadline, signed)
    if permit is None:
        assert granted == b""
    else:
        form = ["uint256", "uint256", "uint8", "bytes32", "bytes32"]
        expected = (deposit.amount, 9, permit.v, permit.r, permit.s)
        assert decode(form, granted) == expected


@given(EXACT, UPTO, st.data())
def test_an_amount_that_was_not_signed_is_not_sent(
    exact: PermitTransfer,
    upto: PermitTransfer,
    data: st.DataObject,
) -> None:
    other = data.draw(WORDS.filter(lambda n: n != exact.amount))
    more = upto.amount + data.draw(st.integers(1, 2**64))

    with pytest.raises(ValueError, match="a payment of"):
        permit2_abi.settle_call(exact, b"", amount=other)
    for amount in (0, -1, more):
        with pytest.raises(ValueError, match="up to"):
            permit2_abi.settle_call(upto, b"", amount=amount)


@given(EXACT, ADDRESSES)
def test_a_permit_for_anything_else_is_not_sent(
    transfer: PermitTransfer, other: Address
) -> None:
    """C11: not for more than the payment either."""
    right = permit_for(transfer)
    changes: list[Json] = [
        {"owner": other},
        {"spender": other},
        {"value": transfer.amount + 1},
        {"value": 2**256 - 1},
    ]
    wrong = [
        replace(right, permit=replace(right.permit, **change)) for change in changes
    ]

    for permit in wrong:
        if permit == right:
            continue
        with pytest.raises(ValueError, match="a permit of"):
            permit2_abi.settle_call(
                transfer, b"", amount=transfer.amount, permit=permit
            )


@given(CONFIGS, HASHES)
def test_a_deposit_of_another_payer_or_token_is_not_sent(
    config: ChannelConfig, channel: Hash32
) -> None:
    deposit = deposit_of(config, channel)
    others = [replace(deposit, payer=SOMEBODY), replace(deposit, token=SOMEBODY)]

    for other in others:
        if other == deposit:
            continue
        with pytest.raises(ValueError, match="does not fund"):
            permit2_abi.permit2_deposit_call(config, other, b"")


@given(ADDRESSES, WORDS, WORDS)
def test_t10_a_used_nonce_is_one_bit_of_its_word(
    owner: Address, nonce: int, word: int
) -> None:
    name, said = understood("Permit2", permit2_abi.nonces_call(owner, nonce))
    bit = 1 << nonce % 256

    assert (name, said) == ("nonceBitmap", {"owner": owner, "word": nonce // 256})
    assert permit2_abi.is_nonce_used(uint_word(word | bit), nonce)
    assert not permit2_abi.is_nonce_used(uint_word(word & ~bit), nonce)


@given(st.binary(max_size=100).filter(lambda b: len(b) != 32))
def test_what_is_not_a_word_is_no_answer(answer: bytes) -> None:
    with pytest.raises(ValueError, match="not at its address"):
        permit2_abi.is_nonce_used(answer, 0)


@given(WORDS)
def test_t10_a_transfer_is_taken_back_by_its_bit(nonce: int) -> None:
    name, said = understood("Permit2", permit2_abi.invalidate_nonce_call(nonce))

    assert name == "invalidateUnorderedNonces"
    assert said == {"wordPos": nonce // 256, "mask": 1 << nonce % 256}


@pytest.mark.parametrize(
    "contract",
    [
        "x402ExactPermit2Proxy",
        "x402UptoPermit2Proxy",
        "Permit2",
        "Permit2DepositCollector",
        "PermitToken",
        "x402BatchSettlement",
    ],
)
def test_every_error_that_a_call_can_end_in_has_its_name(contract: str) -> None:
    for entry in load_artifact(contract).abi:
        if entry["type"] != "error" or entry["name"] in NEVER_SEEN:
            continue
        data = selector(signature(entry)) + bytes(64)

        assert revert_reason(data, ERROR_NAMES) == entry["name"]


# What a transaction moved.


def log(address: Address, topics: tuple[Hash32, ...], data: bytes) -> Log:
    return Log(
        address=address,
        topics=topics,
        data=data,
        block=1,
        transaction=Hash32("0x" + "44" * 32),
        index=0,
    )


def moved(token: Address, payer: Address, to: Address, amount: int) -> Log:
    accounts = Hash32.of(address_word(payer)), Hash32.of(address_word(to))
    return log(token, (TRANSFER, *accounts), uint_word(amount))


def sent(transfer: PermitTransfer) -> Permit2Transfer:
    asset = replace(LOCAL.usdc, address=transfer.token)
    return Permit2Transfer(asset=asset, transfer=transfer, signature=b"")


@given(EXACT)
def test_f4_an_exact_payment_is_paid_by_its_own_amount_only(
    transfer: PermitTransfer,
) -> None:
    payment, to, amount = sent(transfer), transfer.to, transfer.amount
    right = moved(transfer.token, transfer.payer, to, amount)
    wrong = [
        moved(transfer.token, transfer.payer, to, amount - 1),
        moved(transfer.token, transfer.payer, to, amount + 1),
        moved(EXACT_PROXY, transfer.payer, to, amount),
        moved(transfer.token, EXACT_PROXY, to, amount),
        moved(transfer.token, transfer.payer, EXACT_PROXY, amount),
        log(EXACT_PROXY, (Hash32.of(keccak(b"Settled()")),), b""),
    ]

    assert payment.moved(wrong) == 0
    assert payment.moved([*wrong, right]) == amount


@given(UPTO, st.data())
def test_f4_an_upto_payment_is_paid_by_what_it_allows(
    transfer: PermitTransfer, data: st.DataObject
) -> None:
    payment, to = sent(transfer), transfer.to
    amount = data.draw(st.integers(1, transfer.amount))
    wrong = [
        moved(transfer.token, transfer.payer, to, transfer.amount + 1),
        moved(transfer.token, transfer.payer, to, 0),
    ]

    assert payment.moved(wrong) == 0
    right = moved(transfer.token, transfer.payer, to, amount)
    assert payment.moved([*wrong, right]) == amount


@given(EXACT, SIGNATURES)
def test_a_payment_is_known_by_the_data_that_sent_it(
    transfer: PermitTransfer, signed: bytes
) -> None:
    call = permit2_abi.settle_call(transfer, signed, amount=transfer.amount)
    other = replace(transfer, nonce=transfer.nonce ^ 1)

    assert permit2_abi.transfer_mark(transfer) in call.data
    assert permit2_abi.transfer_mark(other) not in call.data
    assert sent(transfer).id != sent(other).id


@given(CONFIGS, WORDS, WORDS)
def test_a_deposit_is_signed_for_its_channel(
    config: ChannelConfig, nonce: int, deadline: int
) -> None:
    deposit = Permit2Deposit(
        config=config,
        asset=replace(LOCAL.usdc, address=config.token),
        amount=5,
        nonce=nonce,
        deadline=deadline,
        signature=b"s",
    )
    elsewhere = replace(deposit, config=replace(config, salt=Hash32("0x" + "55" * 32)))

    assert deposit.digest() == deposit_digest(deposit.permitted, LOCAL.chain)
    if elsewhere != deposit:
        assert elsewhere.digest() != deposit.digest()


def test_a_permit_that_failed_is_told_of_its_token_and_owner() -> None:
    kinds = [
        "EIP2612PermitFailedWithReason(address,address,string)",
        "EIP2612PermitFailedWithPanic(address,address,uint256)",
        "EIP2612PermitFailedWithData(address,address,bytes)",
    ]
    token, owner = SOMEBODY, Address("0x" + "22" * 20)
    about = (Hash32.of(address_word(token)), Hash32.of(address_word(owner)))
    for kind in kinds:
        topic = Hash32.of(keccak(kind.encode()))
        told = [log(EXACT_PROXY, (topic, *about), b"")]

        assert permit2_abi.permit_failed(told, token, owner)
        assert not permit2_abi.permit_failed(told, owner, token)
        assert not permit2_abi.permit_failed(
            [log(token, (topic, *about), b"")], token, owner
        )
    assert not permit2_abi.permit_failed([log(EXACT_PROXY, (), b"")], token, owner)
