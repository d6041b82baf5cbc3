"""
Calls and events of Permit2 and of its spenders in x402: the proxies and the collector.

ABI signatures are facts of the deployed contracts (x402 `contracts/evm`; Permit2's
`ISignatureTransfer`), written in the notation of eth-abi. What a payment moved is read
with `eip3009_abi.amounts_paid`: the proxies' own events do not say it.
"""

from collections.abc import Sequence
from typing import Final

from eth_abi.abi import encode

from agentpay.evm.addresses import (
    EXACT_PROXY,
    PERMIT2,
    PERMIT2_COLLECTOR,
    UPTO_PROXY,
)
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.evm.batch_settlement_abi import collect_call
from agentpay.evm.calls import Call, Log
from agentpay.evm.eip2612 import SignedPermit
from agentpay.evm.hashing import address_word, keccak, selector, uint_word
from agentpay.evm.permit2 import (
    PermitDeposit,
    Permitted,
    PermitTransfer,
)
from agentpay.types import Address, Hash32

_TRANSFER = "((address,uint256),uint256,uint256)"
_PERMIT = "(uint256,uint256,bytes32,bytes32,uint8)"
_EXACT = [_TRANSFER, "address", "(address,uint256)", "bytes"]
_UPTO = [_TRANSFER, "uint256", "address", "(address,address,uint256)", "bytes"]
_WITNESSED = ["address", "bytes32", "string", "bytes"]
CHARGE: Final = [_TRANSFER, "(address,uint256)", *_WITNESSED]
"""Permit2's own `permitWitnessTransferFrom`, as MPP's charges call it."""
BATCH_CHARGE: Final = [
    "((address,uint256)[],uint256,uint256)",
    "(address,uint256)[]",
    *_WITNESSED,
]
"""The same for several transfers."""


_PERMIT_BYTES = 5 * 32

_NONCE_BITMAP = selector("nonceBitmap(address,uint256)")
_INVALIDATE = selector("invalidateUnorderedNonces(uint256,uint256)")

_PERMIT_FAILED = frozenset(
    Hash32.of(keccak(f"EIP2612PermitFailed{how}".encode()))
    for how in (
        "WithReason(address,address,string)",
        "WithPanic(address,address,uint256)",
        "WithData(address,address,bytes)",
    )
)
_SPENDERS = frozenset({EXACT_PROXY, UPTO_PROXY, PERMIT2_COLLECTOR})

ERROR_NAMES: Final = {
    selector(signature): signature.partition("(")[0]
    for signature in (
        # Permit2
        "InvalidAmount(uint256)",
        "LengthMismatch()",
        "SignatureExpired(uint256)",
        "InvalidNonce()",
        "InvalidSignatureLength()",
        "InvalidSignature()",
        "InvalidSigner()",
        "InvalidContractSignature()",
        # The proxies
        "InvalidDestination()",
        "PaymentTooEarly()",
        "InvalidOwner()",
        "InvalidAmount()",
        "Permit2612AmountMismatch()",
        "UnauthorizedFacilitator()",
        "AmountExceedsPermitted()",
        "ReentrancyGuardReentrantCall()",
        # The collector
        "OnlyX402BatchSettlement()",
    )
}
"""The contracts' errors by selector, to name a revert by."""


def _selector(name: str, types: Sequence[str]) -> bytes:
    return selector(f"{name}({','.join(types)})")


_SETTLES: Final = {
    _selector("settle", _EXACT): 4,
    _selector("settle", _UPTO): 4,
    _selector("settleWithPermit", [_PERMIT, *_EXACT]): 4 + _PERMIT_BYTES,
    _selector("settleWithPermit", [_PERMIT, *_UPTO]): 4 + _PERMIT_BYTES,
    _selector("permitWitnessTransferFrom", CHARGE): 4,
    _selector("permitWitnessTransferFrom", BATCH_CHARGE): 4,
}
"""Where in a call of a spender, or of Permit2 itself, its payment begins."""


def settle_call(
    transfer: PermitTransfer,
    signature: bytes,
    *,
    amount: int,
    permit: SignedPermit | None = None,
) -> Call:
    """
    Send `amount` of a payment: all of an exact one, or, as the facilitator that it
    names, some of an upto one. `permit` approves Permit2 first, for all of it.

    Raises:
        ValueError: Another amount than was signed for, or another's permit.
    """
    exact = transfer.facilitator is None
    least = transfer.amount if exact else min(1, transfer.amount)
    if not least <= amount <= transfer.amount:
        up_to = "" if exact else "up to "
        raise ValueError(f"{amount} of a payment of {up_to}{transfer.amount}")
    permitted = (transfer.token, transfer.amount)
    values: list[object] = [(permitted, transfer.nonce, transfer.deadline)]
    types = _EXACT if exact else _UPTO
    if exact:
        witness: tuple[object, ...] = (transfer.to, transfer.valid_after)
    else:
        values += [amount]
        witness = (transfer.to, transfer.facilitator, transfer.valid_after)
    values += [transfer.payer, witness, signature]
    function = _selector("settle", types)
    if permit is not None:
        types = [_PERMIT, *types]
        function = _selector("settleWithPermit", types)
        values.insert(0, _permit_words(permit, transfer))
    data = function + encode(types, values)
    what = f"pay {amount} from {transfer.payer}"
    return Call(to=transfer.spender, data=data, what=what)


def permit2_deposit_call(
    config: ChannelConfig,
    deposit: PermitDeposit,
    signature: bytes,
    *,
    permit: SignedPermit | None = None,
) -> Call:
    """
    Fund a channel as its payer signed for it; `permit` approves Permit2
    first.

    Raises:
        ValueError: Not of the channel's payer and token, or another's permit.
    """
    if (deposit.payer, deposit.token) != (config.payer, config.token):
        raise ValueError(
            f"a deposit of {deposit.token} by {deposit.payer} does not fund a"
            f" channel of {config.token} by {config.payer}"
        )
    permit_data = b""
    if permit is not None:
        value, deadline, r, s, v = _permit_words(permit, deposit)
        permit_data = uint_word(value) + uint_word(deadline) + uint_word(v) + r + s
    collector_data = encode(
        ["uint256", "uint256", "bytes", "bytes"],
        [deposit.nonce, deposit.deadline, signature, permit_data],
    )
    return collect_call(config, deposit.amount, PERMIT2_COLLECTOR, collector_data)


def nonces_call(owner: Address, nonce: int) -> Call:
    """The word of an owner's used nonces that this one is in; see `is_nonce_used`."""
    data = _NONCE_BITMAP + address_word(owner) + uint_word(nonce >> 8)
    return Call(to=PERMIT2, data=data, what=f"read Permit2 nonce {nonce:#x}")


def is_nonce_used(answer: bytes, nonce: int) -> bool:
    """
    Whether the answer to `nonces_call` has this nonce: used, or invalidated.

    Raises:
        ValueError: It is not one word: Permit2 is not at its address on this chain.
    """
    if len(answer) != 32:
        raise ValueError("Permit2 is not at its address on this chain")
    return bool(int.from_bytes(answer, "big") >> (nonce & 0xFF) & 1)


def invalidate_nonce_call(nonce: int) -> Call:
    """Take a signed transfer back, if its payer sends this before it is used."""
    data = _INVALIDATE + uint_word(nonce >> 8) + uint_word(1 << (nonce & 0xFF))
    return Call(to=PERMIT2, data=data, what=f"invalidate Permit2 nonce {nonce:#x}")


def permit_failed(logs: Sequence[Log], token: Address, owner: Address) -> bool:
    """
    Whether a permit that was sent along reverted; the payment may have succeeded.

    A stranger may have sent the permit before, or the allowance was there.
    """
    about = (Hash32.of(address_word(token)), Hash32.of(address_word(owner)))
    return any(
        log.address in _SPENDERS
        and log.topics[:1]
        and log.topics[0] in _PERMIT_FAILED
        and log.topics[1:] == about
        for log in logs
    )


def transfer_mark(transfer: Permitted) -> bytes:
    """How a payment begins in the call that sends it; see `is_settle_of`."""
    return (
        address_word(transfer.token)
        + uint_word(transfer.amount)
        + uint_word(transfer.nonce)
        + uint_word(transfer.deadline)
    )


def is_settle_of(mark: bytes, data: bytes) -> bool:
    """
    Whether a call of a proxy, or of Permit2, sends the payment of this mark.

    Only in its place: whoever calls may write other payments' marks behind the rest.
    """
    start = _SETTLES.get(data[:4])
    return start is not None and data[start:].startswith(mark)


def _permit_words(
    signed: SignedPermit, transfer: Permitted
) -> tuple[int, int, bytes, bytes, int]:
    """Refuses what the contracts would revert on, or what would approve another."""
    permit = signed.permit
    meant = (transfer.payer, PERMIT2, transfer.amount)
    if (permit.owner, permit.spender, permit.value) != meant:
        raise ValueError(
            f"a permit of {permit.value} by {permit.owner} for {permit.spender} is not"
            f" one of {transfer.amount} by {transfer.payer} for Permit2"
        )
    return permit.value, permit.deadline, signed.r, signed.s, signed.v
