"""
Ids, digests and nonces of MPP sessions are what Solidity, viem and eth-account say.

The vectors were agreed on by a contract on Anvil, viem and Python; what is random here
is compared with eth-account and eth-abi.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm import session_escrow as session
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.permit2 import Permitted
from agentpay.evm.session_escrow import Escrow, SessionTerms
from agentpay.evm.signature import recover
from agentpay.types import (
    UINT128_MAX,
    UINT256_MAX,
    ZERO_ADDRESS,
    Address,
    ChainId,
    Hash32,
)

PATH = Path(__file__).parents[2] / "vectors" / "evm_session_vectors.json"
VECTORS: list[dict[str, str]] = json.loads(PATH.read_text())

ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda b: Address("0x" + b.hex()))
HASHES = st.binary(min_size=32, max_size=32).map(Hash32.of)
UINT128 = st.integers(0, UINT128_MAX)
UINT256 = st.integers(0, UINT256_MAX)
TERMS = st.builds(
    SessionTerms,
    payer=ADDRESSES,
    payee=ADDRESSES,
    token=ADDRESSES,
    salt=HASHES,
    authorized_signer=st.just(ZERO_ADDRESS) | ADDRESSES,
)
ESCROWS = st.builds(
    Escrow, chain=st.integers(1, 2**53).map(ChainId), contract=ADDRESSES
)
TRANSFERS = st.builds(
    Permitted,
    payer=ADDRESSES,
    token=ADDRESSES,
    amount=UINT256,
    nonce=UINT256,
    deadline=UINT256,
)

PAYEE_FIELDS = [
    {"name": "channelId", "type": "bytes32"},
    {"name": "cumulativeAmount", "type": "uint128"},
    {"name": "nonce", "type": "uint256"},
    {"name": "deadline", "type": "uint256"},
]
TOKEN_FIELDS = [
    {"name": "token", "type": "address"},
    {"name": "amount", "type": "uint256"},
]


def terms_of(vector: dict[str, str]) -> SessionTerms:
    return SessionTerms(
        payer=Address(vector["payer"]),
        payee=Address(vector["payee"]),
        token=Address(vector["token"]),
        salt=Hash32(vector["salt"]),
        authorized_signer=Address(vector["authorizedSigner"]),
    )


def escrow_of(vector: dict[str, str]) -> Escrow:
    return Escrow(
        chain=ChainId(int(vector["chainId"])), contract=Address(vector["escrow"])
    )


def check_voucher(vector: dict[str, str]) -> None:
    terms, escrow = terms_of(vector), escrow_of(vector)
    channel = session.channel_id(terms, escrow)
    digest = session.voucher_digest(channel, int(vector["cumulativeAmount"]), escrow)

    assert channel == vector["channelId"]
    assert "0x" + digest.hex() == vector["digest"]
    assert recover(digest, bytes.fromhex(vector["signature"][2:])) == terms.signer


def check_open_nonce(vector: dict[str, str]) -> None:
    assert session.open_nonce(terms_of(vector)) == vector["nonce"]


def check_top_up_nonce(vector: dict[str, str]) -> None:
    nonce = session.top_up_nonce(
        Hash32(vector["channelId"]),
        additional_deposit=int(vector["additionalDeposit"]),
        payer=Address(vector["from"]),
        salt=Hash32(vector["topUpSalt"]),
    )

    assert nonce == vector["nonce"]


def check_payee_authorization(vector: dict[str, str]) -> None:
    settles = vector["kind"] == "settleAuth"
    digest = (session.settle_digest if settles else session.close_digest)(
        Hash32(vector["channelId"]),
        int(vector["cumulativeAmount"]),
        nonce=int(vector["nonce"]),
        deadline=int(vector["deadline"]),
        escrow=escrow_of(vector),
    )

    assert "0x" + digest.hex() == vector["digest"]


def check_charge_nonce(vector: dict[str, str]) -> None:
    challenge_id, realm = vector["id"], vector["realm"]

    assert session.charge_nonce(challenge_id, realm) == vector["packed"]
    assert session.charge_nonce_of_json(challenge_id, realm) == vector["jsonArray"]


CHECKS = {
    "voucher": check_voucher,
    "openNonce": check_open_nonce,
    "topUpNonce": check_top_up_nonce,
    "settleAuth": check_payee_authorization,
    "closeAuth": check_payee_authorization,
    "chargeHash": check_charge_nonce,
}


@pytest.mark.parametrize(
    "vector", VECTORS, ids=[f"{n} {v['kind']}" for n, v in enumerate(VECTORS)]
)
def test_a_vector_is_reproduced(vector: dict[str, str]) -> None:
    CHECKS[vector["kind"]](vector)


def test_the_vectors_are_seventeen_of_every_kind() -> None:
    assert len(VECTORS) == 17
    assert {vector["kind"] for vector in VECTORS} == set(CHECKS)


# What the vectors do not show


def signable(
    name: str,
    types: dict[str, list[dict[str, str]]],
    message: dict[str, Any],
    *,
    domain: dict[str, str | int],
) -> bytes:
    """What eth-account would sign."""
    theirs = encode_typed_data(domain, types, message)

    assert name in types
    return keccak(b"\x19" + theirs.version + theirs.header + theirs.body)


def domain_of(escrow: Escrow) -> dict[str, str | int]:
    return {
        "name": "EVM Payment Channel",
        "version": "1",
        "chainId": escrow.chain,
        "verifyingContract": escrow.contract,
    }


def permit_of(
    transfer: Permitted, escrow: Escrow, witness: dict[str, Any]
) -> dict[str, Any]:
    return {
        "permitted": {"token": transfer.token, "amount": transfer.amount},
        "spender": escrow.contract,
        "nonce": transfer.nonce,
        "deadline": transfer.deadline,
        "witness": witness,
    }


def permit_types(
    witness: str, fields: list[dict[str, str]]
) -> dict[str, list[dict[str, str]]]:
    return {
        "PermitWitnessTransferFrom": [
            {"name": "permitted", "type": "TokenPermissions"},
            {"name": "spender", "type": "address"},
            {"name": "nonce", "type": "uint256"},
            {"name": "deadline", "type": "uint256"},
            {"name": "witness", "type": witness},
        ],
        "TokenPermissions": TOKEN_FIELDS,
        witness: fields,
    }


@given(TERMS, ESCROWS)
def test_a_channel_is_the_hash_of_its_abi_encoding(
    terms: SessionTerms, escrow: Escrow
) -> None:
    parts = [terms.payer, terms.payee, terms.token]
    rest = [terms.salt.to_bytes(), terms.authorized_signer]
    nonce = encode(["address"] * 3 + ["bytes32", "address"], parts + rest)
    place = encode(["address", "uint256"], [escrow.contract, escrow.chain])

    assert session.open_nonce(terms).to_bytes() == keccak(nonce)
    assert session.channel_id(terms, escrow).to_bytes() == keccak(nonce + place)


@given(HASHES, UINT128, ADDRESSES, HASHES)
def test_a_top_up_nonce_is_the_hash_of_its_abi_encoding(
    channel: Hash32, amount: int, payer: Address, salt: Hash32
) -> None:
    words = encode(
        ["bytes32", "uint128", "address", "bytes32"],
        [channel.to_bytes(), amount, payer, salt.to_bytes()],
    )
    nonce = session.top_up_nonce(
        channel, additional_deposit=amount, payer=payer, salt=salt
    )

    assert nonce.to_bytes() == keccak(words)


@given(HASHES, UINT128, UINT256, UINT256, ESCROWS)
def test_what_is_signed_is_what_eth_account_signs(
    channel: Hash32, cumulative: int, nonce: int, deadline: int, escrow: Escrow
) -> None:
    voucher = {"channelId": channel.to_bytes(), "cumulativeAmount": cumulative}
    payee = {**voucher, "nonce": nonce, "deadline": deadline}
    domain = domain_of(escrow)

    assert session.voucher_digest(channel, cumulative, escrow) == signable(
        "Voucher", {"Voucher": PAYEE_FIELDS[:2]}, voucher, domain=domain
    )
    for digest, name in (
        (session.settle_digest, "SettleAuthorization"),
        (session.close_digest, "CloseAuthorization"),
    ):
        ours = digest(
            channel, cumulative, nonce=nonce, deadline=deadline, escrow=escrow
        )
        assert ours == signable(name, {name: PAYEE_FIELDS}, payee, domain=domain)


@given(TRANSFERS, TERMS, ESCROWS, HASHES, st.just(PERMIT2) | ADDRESSES)
def test_a_permit_is_what_eth_account_signs(
    transfer: Permitted,
    terms: SessionTerms,
    escrow: Escrow,
    channel: Hash32,
    permit2: Address,
) -> None:
    domain: dict[str, str | int] = {
        "name": "Permit2",
        "chainId": escrow.chain,
        "verifyingContract": permit2,
    }
    opens = {
        "payee": terms.payee,
        "salt": terms.salt.to_bytes(),
        "authorizedSigner": terms.authorized_signer,
    }
    open_fields = [
        {"name": "payee", "type": "address"},
        {"name": "salt", "type": "bytes32"},
        {"name": "authorizedSigner", "type": "address"},
    ]
    top_up_fields = [{"name": "channelId", "type": "bytes32"}]

    assert session.open_permit_digest(transfer, terms, escrow, permit2) == signable(
        "ChannelOpenWitness",
        permit_types("ChannelOpenWitness", open_fields),
        permit_of(transfer, escrow, opens),
        domain=domain,
    )
    assert session.top_up_permit_digest(transfer, channel, escrow, permit2) == signable(
        "ChannelTopUpWitness",
        permit_types("ChannelTopUpWitness", top_up_fields),
        permit_of(transfer, escrow, {"channelId": channel.to_bytes()}),
        domain=domain,
    )


def test_a_contract_hands_permit2_the_types_of_the_draft() -> None:
    assert session.OPEN_WITNESS_TYPE == (
        "ChannelOpenWitness witness)"
        "ChannelOpenWitness(address payee,bytes32 salt,address authorizedSigner)"
        "TokenPermissions(address token,uint256 amount)"
    )
    assert session.TOP_UP_WITNESS_TYPE == (
        "ChannelTopUpWitness witness)"
        "ChannelTopUpWitness(bytes32 channelId)"
        "TokenPermissions(address token,uint256 amount)"
    )


@given(TERMS, ESCROWS)
def test_a_delegated_signer_makes_another_channel(
    terms: SessionTerms, escrow: Escrow
) -> None:
    """Even where it is the payer itself."""
    own = replace(terms, authorized_signer=ZERO_ADDRESS)
    named = replace(terms, authorized_signer=terms.payer)

    assert own.signer == named.signer == terms.payer
    if terms.payer != ZERO_ADDRESS:
        assert session.channel_id(own, escrow) != session.channel_id(named, escrow)


@pytest.mark.parametrize("amount", [-1, UINT128_MAX + 1])
def test_what_is_no_uint128_is_not_signed(amount: int) -> None:
    escrow = escrow_of(VECTORS[0])
    channel = Hash32(VECTORS[0]["channelId"])

    with pytest.raises(ValueError, match="not a uint128"):
        session.voucher_digest(channel, amount, escrow)
    with pytest.raises(ValueError, match="not a uint128"):
        session.close_digest(channel, amount, nonce=0, deadline=0, escrow=escrow)
    with pytest.raises(ValueError, match="not a uint128"):
        session.top_up_nonce(
            channel, additional_deposit=amount, payer=ZERO_ADDRESS, salt=channel
        )


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_both_nonces_of_a_charge_are_known_again(challenge_id: str, realm: str) -> None:
    for nonce in (
        session.charge_nonce(challenge_id, realm),
        session.charge_nonce_of_json(challenge_id, realm),
    ):
        assert session.is_charge_nonce(nonce, challenge_id, realm)
        assert not session.is_charge_nonce(nonce, challenge_id + "x", realm)


def test_only_the_drafts_nonce_can_be_cut_elsewhere() -> None:
    """Why ids of ours have one length: `ab` + `c` is `a` + `bc`."""
    assert session.charge_nonce("ab", "c") == session.charge_nonce("a", "bc")
    assert session.charge_nonce_of_json("ab", "c") != session.charge_nonce_of_json(
        "a", "bc"
    )
