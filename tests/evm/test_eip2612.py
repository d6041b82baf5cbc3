"""
Allowances that are signed: as the official SDK and eth-account sign them, and as tokens
understand them.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm import allowance_abi
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.eip2612 import Permit, SignedPermit, permit_digest
from agentpay.evm.networks import LOCAL
from agentpay.evm.signature import BadSignature, recover
from agentpay.types import UINT256_MAX, Address, Asset
from tests.evm.signed import ADDRESSES, WORDS, Json, sign, their_digest, understood

SAMPLES = Path(__file__).parents[2] / "vectors" / "x402_permit2_samples.json"
PERMITS = st.builds(
    Permit, owner=ADDRESSES, spender=ADDRESSES, value=WORDS, nonce=WORDS, deadline=WORDS
)
ASSETS = st.builds(
    Asset,
    chain=st.integers(1, 2**53),
    address=ADDRESSES,
    decimals=st.just(6),
    name=st.text(st.characters(codec="utf-8"), max_size=20),
    version=st.sampled_from(["1", "2"]),
)
FIELDS = [
    *({"name": n, "type": "address"} for n in ("owner", "spender")),
    *({"name": n, "type": "uint256"} for n in ("value", "nonce", "deadline")),
]
TOKEN = LOCAL.usdc.address


def test_a_captured_permit_was_signed_by_its_owner() -> None:
    fields: Json = json.loads(SAMPLES.read_text())["eip2612"]
    permit = Permit(
        owner=Address(fields["from"]),
        spender=Address(fields["spender"]),
        value=int(fields["amount"]),
        nonce=int(fields["nonce"]),
        deadline=int(fields["deadline"]),
    )
    signature = bytes.fromhex(fields["signature"][2:])

    assert permit.spender == PERMIT2
    assert recover(permit_digest(permit, LOCAL.usdc), signature) == permit.owner


@given(PERMITS, ASSETS)
def test_permits_are_signed_as_eth_account_signs_them(
    permit: Permit, asset: Asset
) -> None:
    message = {
        "owner": permit.owner,
        "spender": permit.spender,
        "value": permit.value,
        "nonce": permit.nonce,
        "deadline": permit.deadline,
    }
    domain = {
        "name": asset.name,
        "version": asset.version,
        "chainId": asset.chain,
        "verifyingContract": asset.address,
    }
    theirs = their_digest(domain, {"Permit": FIELDS}, message)

    assert permit_digest(permit, asset) == theirs


@given(PERMITS)
def test_a_permit_is_understood(permit: Permit) -> None:
    signed = SignedPermit(permit=permit, signature=sign(b"\x11" * 32))
    name, said = understood("PermitToken", allowance_abi.permit_call(TOKEN, signed))

    assert name == "permit"
    assert said == {
        "owner": permit.owner,
        "spender": permit.spender,
        "value": permit.value,
        "deadline": permit.deadline,
        "v": signed.v,
        "r": signed.r,
        "s": signed.s,
    }


@given(PERMITS, st.binary(max_size=70))
def test_a_permit_has_a_keys_signature(permit: Permit, signature: bytes) -> None:
    with pytest.raises(BadSignature):
        SignedPermit(permit=permit, signature=signature)


@pytest.mark.parametrize("number", [-1, UINT256_MAX + 1])
@pytest.mark.parametrize("field", ["value", "nonce", "deadline"])
def test_a_permit_holds_only_what_can_be_signed(field: str, number: int) -> None:
    permit = Permit(owner=TOKEN, spender=TOKEN, value=1, nonce=1, deadline=1)
    change: Json = {field: number}

    with pytest.raises(ValueError, match="uint256"):
        replace(permit, **change)


@given(ADDRESSES, ADDRESSES, WORDS)
def test_reads_and_approvals_are_understood(
    owner: Address, spender: Address, amount: int
) -> None:
    allowance = allowance_abi.allowance_call(TOKEN, owner=owner, spender=spender)
    approve = allowance_abi.approve_call(TOKEN, spender=spender, amount=amount)
    nonce = allowance_abi.permit_nonce_call(TOKEN, owner)

    assert understood("PermitToken", allowance) == (
        "allowance",
        {"owner": owner, "spender": spender},
    )
    assert understood("PermitToken", approve) == (
        "approve",
        {"spender": spender, "value": amount},
    )
    assert understood("PermitToken", nonce) == ("nonces", {"owner": owner})
    assert allowance_abi.read_approve(approve.data) == (spender, amount)


@given(ADDRESSES, WORDS, st.integers(0, 15), st.integers(1, 255))
def test_f7_an_approval_with_anything_else_in_it_is_refused(
    spender: Address, amount: int, place: int, change: int
) -> None:
    data = allowance_abi.approve_call(TOKEN, spender=spender, amount=amount).data
    changed = bytearray(data)
    changed[place] ^= change

    for other in (bytes(changed), data + b"\0", data[:-1], b""):
        with pytest.raises(ValueError, match="nothing else"):
            allowance_abi.read_approve(other)
