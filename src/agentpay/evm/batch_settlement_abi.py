"""
Calls and events of the `x402BatchSettlement` contract and its EIP-3009 collector.

ABI signatures are facts of the deployed contract (x402 `contracts/evm`), written in the
notation of eth-abi. Nothing here talks to a chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eth_abi.abi import decode, encode

from agentpay.evm.addresses import BATCH_SETTLEMENT, ERC3009_COLLECTOR
from agentpay.evm.batch_settlement import ChannelConfig, VoucherClaim
from agentpay.evm.calls import Call, Log
from agentpay.evm.hashing import keccak, selector, uint_word
from agentpay.types import Address, Hash32

_CONFIG = "(address,address,address,address,address,uint40,bytes32)"
_CLAIM = f"(({_CONFIG},uint128),bytes,uint128)"


def _topic(signature: str) -> Hash32:
    return Hash32.of(keccak(signature.encode("ascii")))


_DEPOSIT = selector(f"deposit({_CONFIG},uint128,address,bytes)")
_CLAIM_SIGNED = selector(f"claimWithSignature({_CLAIM}[],bytes)")
_SETTLE = selector("settle(address,address)")
_REFUND_SIGNED = selector(f"refundWithSignature({_CONFIG},uint128,uint256,bytes)")
_INITIATE = selector(f"initiateWithdraw({_CONFIG},uint128)")
_FINALIZE = selector(f"finalizeWithdraw({_CONFIG})")
_MULTICALL = selector("multicall(bytes[])")
_CHANNELS = selector("channels(bytes32)")
_PENDING = selector("pendingWithdrawals(bytes32)")
_REFUND_NONCE = selector("refundNonce(bytes32)")
_RECEIVERS = selector("receivers(address,address)")
_VOUCHER_DIGEST = selector("getVoucherDigest(bytes32,uint128)")

DEPOSITED: Final = _topic("Deposited(bytes32,address,uint128,uint128)")
CLAIMED: Final = _topic("Claimed(bytes32,address,uint128,uint128)")
SETTLED: Final = _topic("Settled(address,address,address,uint128)")
REFUNDED: Final = _topic("Refunded(bytes32,address,uint128)")
WITHDRAW_INITIATED: Final = _topic("WithdrawInitiated(bytes32,uint128,uint40)")
WITHDRAW_FINALIZED: Final = _topic("WithdrawFinalized(bytes32,address,uint128)")

ERROR_NAMES: Final = {
    selector(f"{name}()"): name
    for name in (
        "InvalidChannel",
        "ZeroDeposit",
        "DepositOverflow",
        "InvalidSignature",
        "NotReceiverAuthorizer",
        "NotAuthorizedToClaim",
        "NotAuthorizedToRefund",
        "ClaimExceedsCeiling",
        "ClaimExceedsBalance",
        "WithdrawalAlreadyPending",
        "WithdrawalNotPending",
        "NotAuthorizedToFinalizeWithdraw",
        "WithdrawDelayNotElapsed",
        "NothingToWithdraw",
        "WithdrawAmountExceedsAvailable",
        "WithdrawDelayOutOfRange",
        "EmptyBatch",
        "DepositCollectionFailed",
        "InvalidCollector",
        "InvalidRefundNonce",
        "ZeroRefund",
    )
}
"""The contract's errors by selector, to name a revert by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOnChain:
    """What the contract says of a channel."""

    balance: int
    claimed: int
    withdrawal: int
    """The amount of a pending withdrawal."""
    withdrawal_started: int
    """When it was started (block time), or 0 for none."""
    refund_nonce: int

    @property
    def unused(self) -> bool:
        """Whether nothing is in it and nothing was ever claimed."""
        return self.balance == 0 and self.claimed == 0


_ConfigWords = tuple[str, str, str, str, str, int, bytes]


def _words(config: ChannelConfig) -> _ConfigWords:
    return (
        config.payer,
        config.payer_authorizer,
        config.receiver,
        config.receiver_authorizer,
        config.token,
        config.withdraw_delay,
        config.salt.to_bytes(),
    )


def deposit_call(
    config: ChannelConfig,
    *,
    amount: int,
    valid_after: int,
    valid_before: int,
    salt: Hash32,
    signature: bytes,
) -> Call:
    """Fund a channel by a `receiveWithAuthorization` that the payer signed."""
    collector_data = encode(
        ["uint256", "uint256", "uint256", "bytes"],
        [valid_after, valid_before, int(salt, 16), signature],
    )
    return collect_call(config, amount, ERC3009_COLLECTOR, collector_data)


def collect_call(
    config: ChannelConfig, amount: int, collector: Address, collector_data: bytes
) -> Call:
    """Fund a channel through a collector, which reads what the payer signed."""
    data = encode(
        [_CONFIG, "uint128", "address", "bytes"],
        [_words(config), amount, collector, collector_data],
    )
    what = f"deposit {amount} of {config.token} by {config.payer}"
    return Call(to=BATCH_SETTLEMENT, data=_DEPOSIT + data, what=what)


def claim_call(claims: Sequence[VoucherClaim], authorizer_signature: bytes) -> Call:
    """Record what vouchers allow; anyone may send it, the authorizer signed it."""
    rows = [
        (
            (_words(claim.config), claim.max_claimable),
            claim.signature,
            claim.total_claimed,
        )
        for claim in claims
    ]
    data = encode([f"{_CLAIM}[]", "bytes"], [rows, authorizer_signature])
    what = f"claim {len(claims)} channel(s)"
    return Call(to=BATCH_SETTLEMENT, data=_CLAIM_SIGNED + data, what=what)


def settle_call(receiver: Address, token: Address) -> Call:
    """Send a receiver everything that was claimed for it."""
    data = encode(["address", "address"], [receiver, token])
    return Call(to=BATCH_SETTLEMENT, data=_SETTLE + data, what=f"settle {receiver}")


def refund_call(
    config: ChannelConfig, *, amount: int, nonce: int, authorizer_signature: bytes
) -> Call:
    """Give unclaimed money back to the payer."""
    data = encode(
        [_CONFIG, "uint128", "uint256", "bytes"],
        [_words(config), amount, nonce, authorizer_signature],
    )
    what = f"refund {amount} to {config.payer}"
    return Call(to=BATCH_SETTLEMENT, data=_REFUND_SIGNED + data, what=what)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRefund:
    """A refund that a receiver authorizer signed, and the claims to make before it."""

    config: ChannelConfig
    amount: int
    nonce: int
    signature: bytes
    claims: tuple[VoucherClaim, ...] = ()
    claims_signature: bytes = b""

    def call(self) -> Call:
        """Claim what is due, if anything, and refund: all or nothing."""
        refund = refund_call(
            self.config,
            amount=self.amount,
            nonce=self.nonce,
            authorizer_signature=self.signature,
        )
        if not self.claims:
            return refund
        return multicall([claim_call(self.claims, self.claims_signature), refund])


def initiate_withdraw_call(config: ChannelConfig, amount: int) -> Call:
    """Start the payer's own exit, which needs nobody's consent but a delay."""
    data = encode([_CONFIG, "uint128"], [_words(config), amount])
    what = f"start withdrawing {amount}"
    return Call(to=BATCH_SETTLEMENT, data=_INITIATE + data, what=what)


def finalize_withdraw_call(config: ChannelConfig) -> Call:
    """Finish the payer's own exit once the delay is over."""
    data = encode([_CONFIG], [_words(config)])
    what = "finish the withdrawal"
    return Call(to=BATCH_SETTLEMENT, data=_FINALIZE + data, what=what)


def multicall(calls: Sequence[Call]) -> Call:
    """Several calls of the contract in one transaction, all or none."""
    data = encode(["bytes[]"], [[call.data for call in calls]])
    what = " and ".join(call.what for call in calls)
    return Call(to=BATCH_SETTLEMENT, data=_MULTICALL + data, what=what)


def channel_state_calls(channel: Hash32) -> tuple[Call, Call, Call]:
    """The three reads that make a `ChannelOnChain`; read them at one block."""
    word = channel.to_bytes()
    what = f"read channel {channel}"
    return (
        Call(to=BATCH_SETTLEMENT, data=_CHANNELS + word, what=what),
        Call(to=BATCH_SETTLEMENT, data=_PENDING + word, what=what),
        Call(to=BATCH_SETTLEMENT, data=_REFUND_NONCE + word, what=what),
    )


def decode_channel_state(answers: Sequence[bytes]) -> ChannelOnChain:
    """
    Read the answers to `channel_state_calls`.

    Raises:
        ValueError: They are not what the contract answers.
    """
    channels, pending, nonce = answers
    if len(channels) != 64 or len(pending) != 64 or len(nonce) != 32:
        raise ValueError("the channel contract is not at its address on this chain")
    balance, claimed = decode(["uint128", "uint128"], channels)
    amount, started = decode(["uint128", "uint40"], pending)
    return ChannelOnChain(
        balance=balance,
        claimed=claimed,
        withdrawal=amount if started else 0,
        withdrawal_started=started,
        refund_nonce=int.from_bytes(nonce, "big"),
    )


def decode_claimed(answer: bytes) -> int:
    """
    Read what was claimed of a channel from the first of its `channel_state_calls`.

    Raises:
        ValueError: It is not what the contract answers.
    """
    if len(answer) != 64:
        raise ValueError("the channel contract is not at its address on this chain")
    return int.from_bytes(answer[32:], "big")


def voucher_digest_call(channel: Hash32, max_claimable: int) -> Call:
    """What the contract takes a voucher's signature to be of: 32 bytes."""
    data = _VOUCHER_DIGEST + channel.to_bytes() + uint_word(max_claimable)
    return Call(to=BATCH_SETTLEMENT, data=data, what="read the digest of a voucher")


def receiver_state_call(receiver: Address, token: Address) -> Call:
    """What was claimed for a receiver and what of it was sent: two uint128."""
    data = encode(["address", "address"], [receiver, token])
    return Call(to=BATCH_SETTLEMENT, data=_RECEIVERS + data, what="read receiver")


def decode_receiver_state(answer: bytes) -> tuple[int, int]:
    """Read the answer to `receiver_state_call`: claimed, settled."""
    claimed, settled = decode(["uint128", "uint128"], answer)
    return int(claimed), int(settled)


def amount_in(logs: Sequence[Log], topic: Hash32, *indexed: Hash32) -> int | None:
    """
    The amount of the contract's event whose first words are `indexed`, if any.

    Reads `Deposited` (amount), `Claimed` (claim amount), `Refunded` (amount) and
    `Settled` (amount): in each the amount is the first word of the data.
    """
    for log in logs:
        named = log.topics[: 1 + len(indexed)] == (topic, *indexed)
        if log.address == BATCH_SETTLEMENT and named and len(log.data) >= 32:
            return int.from_bytes(log.data[:32], "big")
    return None


def finalize_after(log: Log) -> int:
    """When the withdrawal of a `WithdrawInitiated` can be finished; 0 if unreadable."""
    return int.from_bytes(log.data[32:64], "big") if len(log.data) == 64 else 0
