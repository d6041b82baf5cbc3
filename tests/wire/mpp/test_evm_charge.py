"""evm/charge: the draft's and the SDKs' messages are read, ours come back."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage
from agentpay.evm.eip3009 import Authorization
from agentpay.types import Address, ChainId, Hash32
from agentpay.wire.mpp import evm_write as write
from agentpay.wire.mpp.evm_charge import (
    AuthorizationPayload,
    HashPayload,
    Permit2Payload,
    TransactionPayload,
    parse_charge_payload,
    parse_charge_request,
)

from .factories import addresses, chains, filled, hashes, signatures, uint256

SPLIT_REQUEST: dict[str, Any] = json.loads("""
{
  "amount": "1050000",
  "currency": "0xe15fc38f6d8c56af07bbcbe3baf5708a2bf42392",
  "recipient": "0x742d35Cc6634C0532925a3b844Bc9e7595f8fE00",
  "description": "Marketplace purchase",
  "methodDetails": {
    "chainId": 1329,
    "credentialTypes": ["permit2"],
    "splits": [
      {
        "recipient": "0x8Ba1f109551bD432803012645Ac136ddd64DBA72",
        "amount": "50000",
        "memo": "platform fee"
      }
    ]
  }
}
""")
"""The draft's example, wrong checksum and all."""
HASH = "0x" + "8a" * 32
BATCH: dict[str, Any] = {
    "type": "permit2",
    "permit": {
        "permitted": [
            {"token": SPLIT_REQUEST["currency"], "amount": "1000000"},
            {"token": SPLIT_REQUEST["currency"], "amount": "50000"},
        ],
        "nonce": "1",
        "deadline": "1743523500",
    },
    "transferDetails": [
        {"to": SPLIT_REQUEST["recipient"], "requestedAmount": "1000000"},
        {"to": SPLIT_REQUEST["recipient"], "requestedAmount": "50000"},
    ],
    "witness": {"challengeHash": HASH},
    "signature": "0x" + "9a" * 65,
}
AUTHORIZATION = Authorization(
    payer=Address("0x" + "aa" * 20),
    to=Address("0x" + "bb" * 20),
    value=1,
    valid_after=0,
    valid_before=9,
    nonce=Hash32(HASH),
)
authorizations = st.builds(
    Authorization,
    payer=addresses,
    to=addresses,
    value=uint256,
    valid_after=uint256,
    valid_before=uint256,
    nonce=hashes,
)


def altered(message: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with one value changed, or taken away where it is None."""
    changed = copy.deepcopy(message)
    inner: Any = changed
    *before, last = path.split(".")
    for step in before:
        inner = inner[int(step)] if step.isdigit() else inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return changed


def test_the_example_of_the_draft_is_read() -> None:
    request = parse_charge_request(SPLIT_REQUEST)

    assert (request.amount, request.primary_amount) == (1_050_000, 1_000_000)
    assert request.recipient == "0x742d35cc6634c0532925a3b844bc9e7595f8fe00"
    assert request.method_details.credential_types == ("permit2",)
    assert request.splits[0].memo == "platform fee"


def test_a_server_that_names_no_types_takes_transactions_and_hashes() -> None:
    plain = altered(SPLIT_REQUEST, "methodDetails.credentialTypes", None)

    assert parse_charge_request(plain).method_details.credential_types == (
        "transaction",
        "hash",
    )


@given(chains, addresses, addresses, uint256, st.none() | filled)
def test_a_request_comes_back(
    chain: ChainId,
    currency: Address,
    recipient: Address,
    amount: int,
    external_id: str | None,
) -> None:
    request = parse_charge_request(
        write.charge_request(
            chain=chain,
            currency=currency,
            recipient=recipient,
            amount=amount,
            credential_types=["authorization", "hash"],
            decimals=6,
            external_id=external_id,
        )
    )

    assert (request.amount, request.currency) == (amount, currency)
    assert (request.recipient, request.external_id) == (recipient, external_id)
    assert request.method_details.chain_id == chain
    assert request.method_details.credential_types == ("authorization", "hash")


@given(authorizations, signatures)
def test_an_authorization_comes_back(
    authorization: Authorization, signature: bytes
) -> None:
    payload = parse_charge_payload(
        write.authorization_payload(authorization, signature)
    )

    assert isinstance(payload, AuthorizationPayload)
    assert payload.signature == signature
    assert authorization == Authorization(
        payer=payload.payer,
        to=payload.to,
        value=payload.value,
        valid_after=payload.valid_after,
        valid_before=payload.valid_before,
        nonce=payload.nonce,
    )


@given(hashes, st.binary(max_size=300))
def test_what_was_sent_comes_back(transaction: Hash32, raw: bytes) -> None:
    by_hash = parse_charge_payload(write.hash_payload(transaction))
    by_transaction = parse_charge_payload(write.transaction_payload(raw))

    assert isinstance(by_hash, HashPayload)
    assert isinstance(by_transaction, TransactionPayload)
    assert (by_hash.transaction, by_transaction.raw) == (transaction, raw)


@given(
    token=addresses,
    transfers=st.lists(st.tuples(addresses, uint256), min_size=1, max_size=11),
    nonce=uint256,
    challenge_hash=hashes,
    external_id=st.just("") | filled,
)
def test_a_permit_comes_back(
    *,
    token: Address,
    transfers: list[tuple[Address, int]],
    nonce: int,
    challenge_hash: Hash32,
    external_id: str,
) -> None:
    payload = parse_charge_payload(
        write.permit2_payload(
            token=token,
            transfers=transfers,
            nonce=nonce,
            deadline=9,
            challenge_hash=challenge_hash,
            external_id=external_id,
            signature=b"s",
        )
    )

    assert isinstance(payload, Permit2Payload)
    assert [(d.to, d.requested_amount) for d in payload.transfer_details] == transfers
    assert {p.token for p in payload.permit.permitted} == {token}
    assert payload.permit.nonce == nonce
    assert payload.witness.challenge_hash == challenge_hash
    assert payload.witness.external_id == external_id


def test_a_batch_of_permit2_is_read() -> None:
    payload = parse_charge_payload(BATCH)

    assert isinstance(payload, Permit2Payload)
    assert payload.transfer_details[1].requested_amount == 50_000
    assert payload.witness.external_id == ""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("amount", None),
        ("amount", 1_050_000),
        ("amount", "1.5"),
        ("amount", "-1"),
        ("amount", str(2**256)),
        ("amount", "50000"),
        ("currency", "usd"),
        ("recipient", None),
        ("methodDetails", None),
        ("methodDetails.chainId", "1329"),
        ("methodDetails.chainId", 0),
        ("methodDetails.chainId", 1.5),
        ("methodDetails.chainId", True),
        ("methodDetails.splits", []),
        ("methodDetails.splits.0.amount", "1050000"),
        ("methodDetails.splits.0.memo", "x" * 257),
        ("methodDetails.decimals", "6"),
        ("methodDetails.credentialTypes", "permit2"),
    ],
)
def test_a_request_that_is_not_of_its_form_is_refused(path: str, value: object) -> None:
    with pytest.raises(MalformedMessage, match="request: "):
        parse_charge_request(altered(SPLIT_REQUEST, path, value))


def test_too_many_splits_are_refused() -> None:
    many = SPLIT_REQUEST["methodDetails"]["splits"] * 11

    with pytest.raises(MalformedMessage, match="splits"):
        parse_charge_request(altered(SPLIT_REQUEST, "methodDetails.splits", many))


def test_a_field_has_one_name() -> None:
    """`payer` is our word; on the wire it means nothing."""
    message = write.authorization_payload(AUTHORIZATION, b"s")
    renamed = {"payer" if key == "from" else key: message[key] for key in message}

    parse_charge_payload(message)
    with pytest.raises(MalformedMessage, match="from: Field required"):
        parse_charge_payload(renamed)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("type", None),
        ("type", "card"),
        ("type", 7),
        ("permit.permitted", []),
        ("permit.permitted", BATCH["permit"]["permitted"][:1]),
        ("permit.nonce", 1),
        ("witness.challengeHash", "0x8a"),
        ("signature", "1b2c"),
        ("signature", "0x" + "00" * 5000),
        ("signature", None),
    ],
)
def test_a_payload_that_is_not_of_its_form_is_refused(path: str, value: object) -> None:
    with pytest.raises(MalformedMessage, match="payload: "):
        parse_charge_payload(altered(BATCH, path, value))
