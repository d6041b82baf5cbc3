"""Charges by Permit2: what libraries sign, and what a transaction shows of one."""

from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import decode
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm.addresses import PERMIT2
from agentpay.evm.calls import Log
from agentpay.evm.charge_permit import (
    WITNESS_TYPE,
    WITNESS_TYPE_ENCODED,
    ChargePermit,
    Part,
)
from agentpay.evm.eip3009_abi import TRANSFER
from agentpay.evm.hashing import address_word, keccak, uint_word
from agentpay.evm.networks import LOCAL
from agentpay.evm.permit2_abi import BATCH_CHARGE, CHARGE, is_settle_of
from agentpay.types import UINT256_MAX, Address, Hash32
from tests.evm.signed import ADDRESSES

AMOUNTS = st.integers(1, 2**128)
PARTS = st.lists(st.tuples(ADDRESSES, AMOUNTS), min_size=1, max_size=11)
HASHES = st.binary(min_size=32, max_size=32).map(Hash32.of)


@st.composite
def permits(draw: st.DrawFn) -> ChargePermit:
    parts = draw(PARTS)
    return ChargePermit(
        asset=LOCAL.usdc,
        payer=draw(ADDRESSES),
        spender=draw(ADDRESSES),
        parts=tuple(Part(to=to, amount=n, permitted=n) for to, n in parts),
        nonce=draw(st.integers(0, UINT256_MAX)),
        deadline=draw(st.integers(0, UINT256_MAX)),
        challenge_hash=draw(HASHES),
        external_id=draw(st.text(max_size=40).filter(str.isprintable)),
        signature=draw(st.binary(min_size=65, max_size=65)),
    )


def typed(permit: ChargePermit) -> bytes:
    """What a library signs: EIP-712's own encoding of the type."""
    batch = len(permit.parts) > 1
    name = f"Permit{'Batch' if batch else ''}WitnessTransferFrom"
    permitted = [
        {"token": permit.asset.address, "amount": part.permitted}
        for part in permit.parts
    ]
    types: dict[str, Any] = {
        name: [
            {"name": "permitted", "type": "TokenPermissions" + "[]" * batch},
            {"name": "spender", "type": "address"},
            {"name": "nonce", "type": "uint256"},
            {"name": "deadline", "type": "uint256"},
            {"name": "witness", "type": "PaymentWitness"},
        ],
        "PaymentWitness": [
            {"name": "challengeHash", "type": "bytes32"},
            {"name": "externalId", "type": "string"},
        ],
        "TokenPermissions": [
            {"name": "token", "type": "address"},
            {"name": "amount", "type": "uint256"},
        ],
    }
    domain = {
        "name": "Permit2",
        "chainId": permit.asset.chain,
        "verifyingContract": PERMIT2,
    }
    message = {
        "permitted": permitted if batch else permitted[0],
        "spender": permit.spender,
        "nonce": permit.nonce,
        "deadline": permit.deadline,
        "witness": {
            "challengeHash": permit.challenge_hash.to_bytes(),
            "externalId": permit.external_id,
        },
    }
    signable = encode_typed_data(domain, types, message)
    return keccak(b"\x19\x01" + signable.header + signable.body)


@given(permits())
def test_one_spelling_is_what_libraries_sign_and_the_other_is_the_drafts(
    permit: ChargePermit,
) -> None:
    assert permit.witness_type == WITNESS_TYPE
    assert replace(permit, witness_type=WITNESS_TYPE_ENCODED).digest() == typed(permit)
    assert permit.digest() != typed(permit)


def test_the_type_string_is_the_drafts() -> None:
    permit = ChargePermit(
        asset=LOCAL.usdc,
        payer=PERMIT2,
        spender=PERMIT2,
        parts=(Part(to=PERMIT2, amount=1, permitted=1),),
        nonce=1,
        deadline=1,
        challenge_hash=Hash32("0x" + "11" * 32),
        external_id="",
        signature=bytes(65),
    )
    assert permit.witness_type_string == (
        "PaymentWitness witness)"
        "PaymentWitness(bytes32 challengeHash, string externalId)"
        "TokenPermissions(address token,uint256 amount)"
    )


@given(permits())
def test_a_call_says_what_was_signed(permit: ChargePermit) -> None:
    types = CHARGE if len(permit.parts) == 1 else BATCH_CHARGE
    call = permit.call(permit.maximum)
    (permitted, nonce, deadline), details, owner, witness, kind, signature = decode(
        types, call.data[4:]
    )
    if len(permit.parts) == 1:
        permitted, details = [permitted], [details]

    assert call.to == PERMIT2
    assert (nonce, deadline) == (permit.nonce, permit.deadline)
    assert (owner, witness) == (permit.payer, permit.witness)
    assert (kind, signature) == (permit.witness_type_string, permit.signature)
    assert list(permitted) == [
        (permit.asset.address, part.permitted) for part in permit.parts
    ]
    assert list(details) == [(part.to, part.amount) for part in permit.parts]


@given(permits(), permits(), st.binary(min_size=65, max_size=65))
def test_a_call_is_known_by_all_but_its_signature(
    permit: ChargePermit, other: ChargePermit, signature: bytes
) -> None:
    mark = permit.trace().mark
    again = replace(permit, signature=signature).call(permit.maximum)
    other = replace(other, nonce=permit.nonce ^ 1)
    data = other.call(other.maximum).data

    assert permit.trace().by == PERMIT2
    assert is_settle_of(mark, again.data)
    assert not is_settle_of(mark, data + mark)
    assert not is_settle_of(mark, data[:4] + mark[:-1])


@given(permits(), st.integers(-1, 1).filter(bool))
def test_a_charge_is_all_or_nothing(permit: ChargePermit, off: int) -> None:
    with pytest.raises(ValueError, match="of a charge"):
        permit.call(permit.maximum + off)


def log(permit: ChargePermit, part: Part) -> Log:
    payer, to = Hash32.of(address_word(permit.payer)), Hash32.of(address_word(part.to))
    return Log(
        address=permit.asset.address,
        topics=(TRANSFER, payer, to),
        data=uint_word(part.amount),
        block=1,
        transaction=Hash32("0x" + "11" * 32),
        index=0,
    )


@given(permits(), st.randoms(use_true_random=False), st.data())
def test_every_part_has_an_event_of_its_own(
    permit: ChargePermit, random: Any, data: st.DataObject
) -> None:
    logs = [log(permit, part) for part in permit.parts]
    random.shuffle(logs)
    missing = data.draw(st.integers(0, len(logs) - 1))

    assert permit.moved(logs) == permit.maximum
    assert permit.moved(logs[:missing] + logs[missing + 1 :]) == 0


def test_two_equal_parts_are_not_paid_by_one_event() -> None:
    part = Part(to=Address("0x" + "22" * 20), amount=5, permitted=5)
    permit = ChargePermit(
        asset=LOCAL.usdc,
        payer=PERMIT2,
        spender=PERMIT2,
        parts=(part, part),
        nonce=1,
        deadline=1,
        challenge_hash=Hash32("0x" + "11" * 32),
        external_id="",
        signature=bytes(65),
    )

    assert permit.moved([log(permit, part)]) == 0
    assert permit.moved([log(permit, part)] * 2) == 10
