"""
Channel ids, digests and nonces are those of the deployed contract and official SDK.

The vectors name their source; what is random here is compared with eth-account.
"""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm import batch_settlement as batch
from agentpay.evm import eip3009
from agentpay.evm.addresses import BATCH_SETTLEMENT, ERC3009_COLLECTOR
from agentpay.evm.batch_settlement import ChannelConfig, VoucherClaim
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.signature import recover
from agentpay.types import (
    UINT40_MAX,
    UINT128_MAX,
    UINT256_MAX,
    Address,
    Asset,
    ChainId,
    Hash32,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "x402_wire_samples.json"
LOCAL = ChainId(31337)

ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda b: Address("0x" + b.hex()))
HASHES = st.binary(min_size=32, max_size=32).map(Hash32.of)
AMOUNTS = st.integers(0, UINT128_MAX)
CONFIGS = st.builds(
    ChannelConfig,
    payer=ADDRESSES,
    payer_authorizer=ADDRESSES,
    receiver=ADDRESSES,
    receiver_authorizer=ADDRESSES,
    token=ADDRESSES,
    withdraw_delay=st.integers(0, UINT40_MAX),
    salt=HASHES,
)

CONFIG_FIELDS = [
    *({"name": n, "type": "address"} for n in ("payer", "payerAuthorizer")),
    *({"name": n, "type": "address"} for n in ("receiver", "receiverAuthorizer")),
    {"name": "token", "type": "address"},
    {"name": "withdrawDelay", "type": "uint40"},
    {"name": "salt", "type": "bytes32"},
]
VOUCHER_FIELDS = [
    {"name": "channelId", "type": "bytes32"},
    {"name": "maxClaimableAmount", "type": "uint128"},
]
REFUND_FIELDS = [
    {"name": "channelId", "type": "bytes32"},
    {"name": "nonce", "type": "uint256"},
    {"name": "amount", "type": "uint128"},
]
BATCH_TYPES = {
    "ClaimBatch": [{"name": "claims", "type": "ClaimEntry[]"}],
    "ClaimEntry": [*VOUCHER_FIELDS, {"name": "totalClaimed", "type": "uint128"}],
}
# JSON is what it is: `Any` stays in here.
Json = Any


@lru_cache
def vectors() -> Json:
    return json.loads(VECTORS.read_text())


def payload(kind: str) -> Json:
    return vectors()["messages"][kind]["PAYMENT-SIGNATURE"]["payload"]


def settled(kind: str) -> Json:
    """What the official server sent to its facilitator."""
    for call in vectors()["messages"]["facilitator"]:
        if call["path"] == "/settle":
            sent = call["request"]["paymentPayload"]["payload"]
            if sent.get("type") == kind:
                return sent
    raise AssertionError(kind)


def read_config(fields: Json) -> ChannelConfig:
    return ChannelConfig(
        payer=Address(fields["payer"]),
        payer_authorizer=Address(fields["payerAuthorizer"]),
        receiver=Address(fields["receiver"]),
        receiver_authorizer=Address(fields["receiverAuthorizer"]),
        token=Address(fields["token"]),
        withdraw_delay=fields["withdrawDelay"],
        salt=Hash32(fields["salt"]),
    )


def read_claim(row: Json) -> VoucherClaim:
    return VoucherClaim(
        config=read_config(row["voucher"]["channel"]),
        max_claimable=int(row["voucher"]["maxClaimableAmount"]),
        signature=bytes.fromhex(row["signature"][2:]),
        total_claimed=int(row["totalClaimed"]),
    )


def dollars(token: str) -> Asset:
    return Asset(
        chain=LOCAL, address=Address(token), decimals=6, name="USD Coin", version="2"
    )


def signer_of(digest: bytes, signature: str) -> Address:
    return recover(digest, bytes.fromhex(signature[2:]))


def their_digest(types: Json, message: Json, chain: int) -> bytes:
    domain = {
        "name": "x402 Batch Settlement",
        "version": "1",
        "chainId": chain,
        "verifyingContract": BATCH_SETTLEMENT,
    }
    signable = encode_typed_data(domain, types, message)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


# What was captured.


@pytest.mark.parametrize("chain", [31337, 8453, 84532])
def test_domain_separators_are_those_of_the_deployed_contract(chain: int) -> None:
    expected = vectors()["domain_separators"][str(chain)]

    assert Hash32.of(batch.separator(ChainId(chain))) == expected


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("ChannelConfig", batch.CHANNEL_CONFIG_TYPEHASH),
        ("Voucher", batch.VOUCHER_TYPEHASH),
        ("Refund", batch.REFUND_TYPEHASH),
        ("ClaimEntry", batch.CLAIM_ENTRY_TYPEHASH),
        ("ClaimBatch", batch.CLAIM_BATCH_TYPEHASH),
    ],
)
def test_type_hashes_are_those_of_the_deployed_contract(name: str, ours: bytes) -> None:
    assert Hash32.of(ours) == vectors()["type_hashes"][name]


@pytest.mark.parametrize("kind", ["deposit", "voucher", "refund"])
def test_captured_channels_have_the_id_we_compute(kind: str) -> None:
    sent = payload(kind)

    assert (
        batch.channel_id(read_config(sent["channelConfig"]), LOCAL)
        == (sent["voucher"]["channelId"])
    )


@pytest.mark.parametrize("kind", ["deposit", "voucher", "refund"])
def test_captured_vouchers_were_signed_by_the_payers_authorizer(kind: str) -> None:
    sent = payload(kind)
    voucher = sent["voucher"]
    digest = batch.voucher_digest(
        Hash32(voucher["channelId"]), int(voucher["maxClaimableAmount"]), LOCAL
    )
    signer = signer_of(digest, voucher["signature"])

    assert signer == Address(sent["channelConfig"]["payerAuthorizer"])


def test_a_voucher_is_no_voucher_for_another_amount_channel_or_chain() -> None:
    """K1, K2."""
    voucher = payload("voucher")["voucher"]
    channel, amount = Hash32(voucher["channelId"]), int(voucher["maxClaimableAmount"])
    signer = Address(payload("voucher")["channelConfig"]["payerAuthorizer"])
    others = (
        batch.voucher_digest(channel, amount + 1, LOCAL),
        batch.voucher_digest(Hash32("0x" + "11" * 32), amount, LOCAL),
        batch.voucher_digest(channel, amount, ChainId(8453)),
    )

    for digest in others:
        assert signer_of(digest, voucher["signature"]) != signer


def test_a_captured_deposit_was_signed_with_the_nonce_we_compute() -> None:
    sent = payload("deposit")
    fields = sent["deposit"]["authorization"]["erc3009Authorization"]
    channel = Hash32(sent["voucher"]["channelId"])
    authorization = Authorization(
        payer=Address(sent["channelConfig"]["payer"]),
        to=ERC3009_COLLECTOR,
        value=int(sent["deposit"]["amount"]),
        valid_after=int(fields["validAfter"]),
        valid_before=int(fields["validBefore"]),
        nonce=batch.deposit_nonce(channel, Hash32(fields["salt"])),
    )
    asset = dollars(sent["channelConfig"]["token"])
    digest = eip3009.receive_digest(authorization, asset)

    assert signer_of(digest, fields["signature"]) == authorization.payer
    transfer = eip3009.transfer_digest(authorization, asset)
    assert signer_of(transfer, fields["signature"]) != authorization.payer


def test_a_captured_transfer_was_signed_by_its_payer() -> None:
    sent = payload("exact")
    fields = sent["authorization"]
    authorization = Authorization(
        payer=Address(fields["from"]),
        to=Address(fields["to"]),
        value=int(fields["value"]),
        valid_after=int(fields["validAfter"]),
        valid_before=int(fields["validBefore"]),
        nonce=Hash32(fields["nonce"]),
    )
    asset = dollars(
        vectors()["messages"]["402 /exact"]["PAYMENT-REQUIRED"]["accepts"][0]["asset"]
    )
    digest = eip3009.transfer_digest(authorization, asset)

    assert signer_of(digest, sent["signature"]) == authorization.payer


def test_a_captured_claim_was_signed_by_the_receivers_authorizer() -> None:
    sent = settled("claim")
    claims = [read_claim(row) for row in sent["claims"]]
    digest = batch.claim_batch_digest(claims, LOCAL)
    signer = signer_of(digest, sent["claimAuthorizerSignature"])

    assert signer == claims[0].config.receiver_authorizer


def test_a_captured_refund_was_signed_by_the_receivers_authorizer() -> None:
    sent = settled("refund")
    digest = batch.refund_digest(
        Hash32(sent["voucher"]["channelId"]),
        nonce=int(sent["refundNonce"]),
        amount=int(sent["amount"]),
        chain=LOCAL,
    )
    signer = signer_of(digest, sent["refundAuthorizerSignature"])

    assert signer == read_config(sent["channelConfig"]).receiver_authorizer


# What is random.


def config_message(config: ChannelConfig) -> Json:
    return {
        "payer": config.payer,
        "payerAuthorizer": config.payer_authorizer,
        "receiver": config.receiver,
        "receiverAuthorizer": config.receiver_authorizer,
        "token": config.token,
        "withdrawDelay": config.withdraw_delay,
        "salt": config.salt.to_bytes(),
    }


@given(CONFIGS, st.integers(1, 2**53))
def test_a_channel_id_is_the_digest_of_its_terms(
    config: ChannelConfig, chain: int
) -> None:
    types = {"ChannelConfig": CONFIG_FIELDS}
    theirs = their_digest(types, config_message(config), chain)

    assert batch.channel_id(config, ChainId(chain)).to_bytes() == theirs


@given(HASHES, AMOUNTS, st.integers(1, 2**53))
def test_voucher_digests_are_those_of_eth_account(
    channel: Hash32, amount: int, chain: int
) -> None:
    message = {"channelId": channel.to_bytes(), "maxClaimableAmount": amount}
    theirs = their_digest({"Voucher": VOUCHER_FIELDS}, message, chain)

    assert batch.voucher_digest(channel, amount, ChainId(chain)) == theirs


@given(HASHES, st.integers(0, UINT256_MAX), AMOUNTS)
def test_refund_digests_are_those_of_eth_account(
    channel: Hash32, nonce: int, amount: int
) -> None:
    message = {"channelId": channel.to_bytes(), "nonce": nonce, "amount": amount}
    theirs = their_digest({"Refund": REFUND_FIELDS}, message, LOCAL)
    ours = batch.refund_digest(channel, nonce=nonce, amount=amount, chain=LOCAL)

    assert ours == theirs


@given(st.lists(st.tuples(CONFIGS, AMOUNTS, AMOUNTS), min_size=1, max_size=4))
def test_claim_digests_are_those_of_eth_account(
    rows: list[tuple[ChannelConfig, int, int]],
) -> None:
    claims = [
        VoucherClaim(config=c, max_claimable=m, signature=b"", total_claimed=t)
        for c, m, t in rows
    ]
    entries = [
        {
            "channelId": batch.channel_id(claim.config, LOCAL).to_bytes(),
            "maxClaimableAmount": claim.max_claimable,
            "totalClaimed": claim.total_claimed,
        }
        for claim in claims
    ]
    theirs = their_digest(BATCH_TYPES, {"claims": entries}, LOCAL)

    assert batch.claim_batch_digest(claims, LOCAL) == theirs


@given(HASHES, HASHES)
def test_a_deposit_nonce_is_what_the_collector_computes(
    channel: Hash32, salt: Hash32
) -> None:
    words = [channel.to_bytes(), int.from_bytes(salt.to_bytes(), "big")]
    theirs = keccak(encode(["bytes32", "uint256"], words))

    assert batch.deposit_nonce(channel, salt).to_bytes() == theirs


@given(CONFIGS, st.binary(min_size=28, max_size=28))
def test_a_tag_in_the_salt_makes_another_channel(
    config: ChannelConfig, rest: bytes
) -> None:
    tagged = replace(config, salt=Hash32.of(batch.PARALLEL_TAG + rest))
    plain = replace(config, salt=Hash32.of(b"\x00" * 4 + rest))

    assert tagged.tagged
    assert not plain.tagged
    assert batch.channel_id(tagged, LOCAL) != batch.channel_id(plain, LOCAL)


@pytest.mark.parametrize("delay", [-1, UINT40_MAX + 1])
def test_a_delay_that_the_contract_would_cut_is_refused(delay: int) -> None:
    config = read_config(payload("voucher")["channelConfig"])

    with pytest.raises(ValueError, match="uint40"):
        replace(config, withdraw_delay=delay)


@pytest.mark.parametrize("value", [-1, UINT256_MAX + 1])
def test_an_authorization_holds_only_what_can_be_signed(value: int) -> None:
    payer = Address("0x" + "11" * 20)

    with pytest.raises(ValueError, match="uint256"):
        Authorization(
            payer=payer,
            to=payer,
            value=value,
            valid_after=0,
            valid_before=1,
            nonce=Hash32("0x" + "22" * 32),
        )
