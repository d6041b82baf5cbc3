"""
What is signed for Permit2 is what the official SDK signs.

The samples name their source; what is random here is compared with eth-account.
"""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm import permit2
from agentpay.evm.addresses import (
    EXACT_PROXY,
    PERMIT2,
    PERMIT2_COLLECTOR,
    UPTO_PROXY,
)
from agentpay.evm.permit2 import (
    PermitDeposit,
    Permitted,
    PermitTransfer,
    deposit_digest,
    transfer_digest,
)
from agentpay.evm.signature import recover
from agentpay.types import UINT256_MAX, Address, ChainId, Hash32
from tests.evm.signed import DEPOSITS, EXACT, HASHES, UPTO, Json, their_digest

SAMPLES = Path(__file__).parents[2] / "vectors" / "x402_permit2_samples.json"
LOCAL = ChainId(31337)
CHAINS = st.integers(1, 2**53).map(ChainId)
SOMEBODY = Address("0x" + "11" * 20)


@lru_cache
def captured() -> Json:
    """What the official SDK signed."""
    return json.loads(SAMPLES.read_text())


def permitted(fields: Json) -> Json:
    """The fields that payments and deposits share."""
    return {
        "payer": Address(fields["from"]),
        "token": Address(fields["permitted"]["token"]),
        "amount": int(fields["permitted"]["amount"]),
        "nonce": int(fields["nonce"]),
        "deadline": int(fields["deadline"]),
    }


@pytest.mark.parametrize("chain", [1, 8453])
def test_domains_are_those_of_the_deployed_permit2(chain: int) -> None:
    expected = captured()["permit2_domain_separators"][str(chain)]

    assert Hash32.of(permit2.separator(ChainId(chain))) == expected


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_a_captured_payment_was_signed_by_its_payer(scheme: str) -> None:
    sent = captured()[scheme]
    fields = sent["permit2Authorization"]
    witness = fields["witness"]
    facilitator = witness.get("facilitator")
    transfer = PermitTransfer(
        **permitted(fields),
        to=Address(witness["to"]),
        valid_after=int(witness["validAfter"]),
        facilitator=None if facilitator is None else Address(facilitator),
    )
    signature = bytes.fromhex(sent["signature"][2:])

    assert Address(fields["spender"]) == transfer.spender
    assert recover(transfer_digest(transfer, LOCAL), signature) == transfer.payer


def test_a_captured_deposit_was_signed_by_its_payer() -> None:
    sent = captured()["deposit"]["deposit"]["authorization"]["permit2Authorization"]
    channel = Hash32(sent["witness"]["channelId"])
    deposit = PermitDeposit(**permitted(sent), channel=channel)
    signature = bytes.fromhex(sent["signature"][2:])

    assert Address(sent["spender"]) == deposit.spender
    assert recover(deposit_digest(deposit, LOCAL), signature) == deposit.payer


def types(name: str, *fields: tuple[str, str]) -> Json:
    """The types that the official SDK signs, of a witness with these fields."""
    transfer = [
        ("permitted", "TokenPermissions"),
        ("spender", "address"),
        ("nonce", "uint256"),
        ("deadline", "uint256"),
        ("witness", name),
    ]
    every = {
        "PermitWitnessTransferFrom": transfer,
        "TokenPermissions": [("token", "address"), ("amount", "uint256")],
        name: fields,
    }
    return {
        kind: [{"name": field, "type": type_} for field, type_ in rows]
        for kind, rows in every.items()
    }


def theirs(signed: Permitted, spender: Address, witness: Json, chain: ChainId) -> bytes:
    message = {
        "permitted": {"token": signed.token, "amount": signed.amount},
        "spender": spender,
        "nonce": signed.nonce,
        "deadline": signed.deadline,
        "witness": {name: value for name, (_, value) in witness.items()},
    }
    domain = {"name": "Permit2", "chainId": chain, "verifyingContract": PERMIT2}
    name = "DepositWitness" if "channelId" in witness else "Witness"
    fields = [(field, kind) for field, (kind, _) in witness.items()]
    return their_digest(domain, types(name, *fields), message)


@given(EXACT, CHAINS)
def test_exact_payments_are_signed_as_eth_account_signs_them(
    transfer: PermitTransfer, chain: ChainId
) -> None:
    witness = {
        "to": ("address", transfer.to),
        "validAfter": ("uint256", transfer.valid_after),
    }
    expected = theirs(transfer, EXACT_PROXY, witness, chain)

    assert transfer.spender == EXACT_PROXY
    assert transfer_digest(transfer, chain) == expected


@given(UPTO, CHAINS)
def test_upto_payments_are_signed_as_eth_account_signs_them(
    transfer: PermitTransfer, chain: ChainId
) -> None:
    witness = {
        "to": ("address", transfer.to),
        "facilitator": ("address", transfer.facilitator),
        "validAfter": ("uint256", transfer.valid_after),
    }
    expected = theirs(transfer, UPTO_PROXY, witness, chain)

    assert transfer.spender == UPTO_PROXY
    assert transfer_digest(transfer, chain) == expected


@given(DEPOSITS, CHAINS)
def test_deposits_are_signed_as_eth_account_signs_them(
    deposit: PermitDeposit, chain: ChainId
) -> None:
    witness = {"channelId": ("bytes32", deposit.channel.to_bytes())}
    expected = theirs(deposit, PERMIT2_COLLECTOR, witness, chain)

    assert deposit.spender == PERMIT2_COLLECTOR
    assert deposit_digest(deposit, chain) == expected


def test_the_types_of_a_deposit_are_those_of_the_deployed_collector() -> None:
    transfer = Hash32.of(permit2.DEPOSIT_TYPEHASH)
    witness = Hash32.of(permit2.DEPOSIT_WITNESS_TYPEHASH)

    assert (transfer[:10], transfer[-4:]) == ("0x436a25c0", "cc52")
    assert (witness[:10], witness[-4:]) == ("0xba000009", "4479")


@given(EXACT | UPTO, st.data())
def test_nothing_that_was_signed_can_be_changed(
    transfer: PermitTransfer, data: st.DataObject
) -> None:
    """K1: nor the chain."""
    numbers = ["amount", "nonce", "deadline", "valid_after"]
    accounts = ["token", "to", "facilitator"]
    field = data.draw(st.sampled_from(numbers + accounts))
    value: Json = getattr(transfer, field) ^ 1 if field in numbers else SOMEBODY
    change: Json = {field: value}
    other = replace(transfer, **change)
    digest = transfer_digest(transfer, LOCAL)

    assert other == transfer or transfer_digest(other, LOCAL) != digest
    assert transfer_digest(transfer, ChainId(8453)) != digest


@given(DEPOSITS, HASHES)
def test_k9_a_deposit_is_signed_for_one_channel(
    deposit: PermitDeposit, channel: Hash32
) -> None:
    other = replace(deposit, channel=channel)
    digest = deposit_digest(deposit, LOCAL)

    assert other == deposit or deposit_digest(other, LOCAL) != digest


@pytest.mark.parametrize("number", [-1, UINT256_MAX + 1])
@pytest.mark.parametrize("field", ["amount", "nonce", "deadline", "valid_after"])
def test_a_transfer_holds_only_what_can_be_signed(field: str, number: int) -> None:
    transfer = PermitTransfer(
        payer=SOMEBODY,
        token=SOMEBODY,
        amount=1,
        nonce=1,
        deadline=1,
        to=SOMEBODY,
        valid_after=0,
    )

    change: Json = {field: number}

    with pytest.raises(ValueError, match="uint256"):
        replace(transfer, **change)
