"""
What shows that a cell of the peer matrix works, and what is to be doubted about it.

The peer's process says what it saw; whether that moved money is asked of the chain.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from agentpay.evm.addresses import BATCH_SETTLEMENT, PERMIT2
from agentpay.evm.batch_settlement import voucher_digest
from agentpay.evm.batch_settlement_abi import CLAIMED, DEPOSITED, REFUNDED, SETTLED
from agentpay.evm.eip3009_abi import TRANSFER
from agentpay.evm.hashing import address_word, keccak
from agentpay.evm.signature import BadSignature, recover
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Hash32

Json = dict[str, Any]
CHANNEL = "batch-settlement"
Variant = tuple[str, str]
"""A scheme, and what of it: a method of transfer, or a step in a channel's life."""
PERMIT = "eip2612"
"""By Permit2 without an allowance: a permit comes along, to be sent by who settles."""
CONTRACT = "erc1271"
"""By EIP-3009, from a payer that is a contract."""
CHARGE = "charge"
BODY = "body"
"""A charge of MPP for a request with a body, which its challenge names."""
PART = "refund-part"
"""A refund of as much as a request costs, after which the channel goes on."""
EVENTS = {
    "deposit": DEPOSITED,
    "top-up": DEPOSITED,
    "permit2": DEPOSITED,
    PERMIT: DEPOSITED,
    CONTRACT: DEPOSITED,
    "claim": CLAIMED,
    "settle": SETTLED,
    PART: REFUNDED,
    "refund": REFUNDED,
}
"""What the channel contract says of each step."""
VOUCHERS = frozenset(
    {(CHANNEL, "voucher"), (CHANNEL, "voucher-key"), (CHANNEL, "recovery")}
)
"""What sends no transaction."""
_APPROVAL = Hash32.of(keccak(b"Approval(address,address,uint256)"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A payment as the peer's process saw it."""

    status: int
    transaction: str = ""
    voucher: Json = field(default_factory=dict[str, Any])
    kind: str = ""
    """Of a channel's payment: deposit, voucher, refund, claim or settle."""
    verified: bool = False
    """Its voucher was shown to a facilitator, which found it valid."""
    bound: bool = False
    """It answers a challenge (MPP) that is for one body of a request."""
    listed: str = ""
    """What a facilitator has in its catalogue since: a method and a URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What evidence has to show."""

    payer: Address
    voucher_signer: Address
    """The payer, or a key of its own that its channel names."""
    price: int
    senders: Set[Address]
    """Who may have sent the transaction."""
    verified: bool = False
    """Vouchers are verified by the facilitator."""
    listed: str = ""
    """What the facilitator has to list; "" is not asked."""


def read_note(note: Json) -> Evidence:
    """What one of the peer's programs wrote down (`tests/peers/lines.py`)."""
    payload = note["payload"]
    return Evidence(
        status=note["status"],
        transaction=note["receipt"].get("transaction", ""),
        voucher=payload.get("voucher", {}),
        kind=payload.get("type", ""),
        verified=note.get("verified", False),
        bound=note.get("bound", False),
        listed=note.get("listed", ""),
    )


async def doubt(
    chain: LocalChain, seen: Evidence, variant: Variant, expected: Expected
) -> str:
    """Why it does not convince; "" if it does."""
    if seen.status != 200:
        return f"the peer saw status {seen.status}"
    if variant in VOUCHERS:
        if expected.verified and not seen.verified:
            return "the facilitator did not verify the voucher"
        return _doubt_voucher(chain, expected.voucher_signer, seen.voucher)
    if variant[1] == BODY and not seen.bound:
        return "the challenge is not bound to the body"
    if not seen.transaction:
        return "there is no transaction"
    if expected.listed and seen.listed != expected.listed:
        return f"the facilitator lists {seen.listed!r}"
    receipt = await chain.node.rpc("eth_getTransactionReceipt", seen.transaction)
    if receipt is None or receipt["status"] != "0x1":
        return "the transaction is not on the chain, or failed"
    if Address(receipt["from"]) not in expected.senders:
        return f"the transaction was sent by {receipt['from']}"
    scheme, name = variant
    if name == PERMIT and not _approved(chain, receipt, expected.payer):
        return "no approval of Permit2 came along"
    if scheme == CHANNEL:
        topics: list[str] = [EVENTS[name]]
        topics += [] if name == "settle" else [seen.voucher.get("channelId", "?")]
        logs = _logs(receipt, BATCH_SETTLEMENT, topics)
        if name == PART and [int(log["data"], 16) for log in logs] != [expected.price]:
            return "the transaction gives no part of what was asked for"
        return "" if logs else "the transaction has no such event of the channel"
    sent = [TRANSFER, Hash32.of(address_word(expected.payer))]
    paid = [int(log["data"], 16) for log in _logs(receipt, chain.usdc.address, sent)]
    wanted = expected.price
    return "" if paid == [wanted] else f"the payer sent {paid}, not {wanted}"


def _approved(chain: LocalChain, receipt: Json, payer: Address) -> bool:
    parties = [Hash32.of(address_word(party)) for party in (payer, PERMIT2)]
    return bool(_logs(receipt, chain.usdc.address, [_APPROVAL, *parties]))


def _logs(receipt: Json, contract: Address, topics: Sequence[str]) -> list[Json]:
    wanted = [topic.lower() for topic in topics]
    return [
        log
        for log in receipt["logs"]
        if log["address"].lower() == contract and log["topics"][: len(wanted)] == wanted
    ]


def _doubt_voucher(chain: LocalChain, wanted: Address, voucher: Json) -> str:
    try:
        amount = int(voucher["maxClaimableAmount"])
        digest = voucher_digest(Hash32(voucher["channelId"]), amount, chain.chain_id)
        signer = recover(digest, bytes.fromhex(voucher["signature"][2:]))
    except (KeyError, ValueError, BadSignature) as error:
        return f"the voucher cannot be read: {error!r}"
    return "" if signer == wanted else f"the voucher is signed by {signer}"
