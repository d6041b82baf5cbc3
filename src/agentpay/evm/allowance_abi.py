"""
Calls by which a token's holder lets a contract take tokens: EIP-20 and EIP-2612.
"""

from typing import Final

from agentpay.evm.calls import Call
from agentpay.evm.eip2612 import SignedPermit
from agentpay.evm.hashing import address_word, selector, uint_word
from agentpay.types import Address

_ALLOWANCE: Final = selector("allowance(address,address)")
_APPROVE: Final = selector("approve(address,uint256)")
_NONCES: Final = selector("nonces(address)")
_PERMIT: Final = selector(
    "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)"
)


def allowance_call(token: Address, *, owner: Address, spender: Address) -> Call:
    """What `spender` may still take from `owner`: one uint256."""
    data = _ALLOWANCE + address_word(owner) + address_word(spender)
    return Call(to=token, data=data, what=f"read allowance of {owner}")


def approve_call(token: Address, *, spender: Address, amount: int) -> Call:
    """
    Let `spender` take `amount` from the sender.

    Some tokens (USDT) change an allowance only to zero and from zero.
    """
    data = _APPROVE + address_word(spender) + uint_word(amount)
    return Call(to=token, data=data, what=f"approve {amount} for {spender}")


def read_approve(data: bytes) -> tuple[Address, int]:
    """
    Read what an `approve_call` says, and nothing longer: spender and amount.

    Raises:
        ValueError: It is another call, or has bytes before, between or behind.
    """
    if len(data) != 68 or data[:4] != _APPROVE or any(data[4:16]):
        raise ValueError("not approve(address,uint256) and nothing else")
    return Address("0x" + data[16:36].hex()), int.from_bytes(data[36:], "big")


def permit_nonce_call(token: Address, owner: Address) -> Call:
    """The nonce that the owner's next permit must have: one uint256."""
    data = _NONCES + address_word(owner)
    return Call(to=token, data=data, what=f"read permit nonce of {owner}")


def permit_call(token: Address, signed: SignedPermit) -> Call:
    """Set an allowance that its owner signed; anyone may send it."""
    permit = signed.permit
    words = (
        address_word(permit.owner),
        address_word(permit.spender),
        uint_word(permit.value),
        uint_word(permit.deadline),
        uint_word(signed.v),
        signed.r,
        signed.s,
    )
    what = f"permit {permit.value} of {permit.owner}"
    return Call(to=token, data=_PERMIT + b"".join(words), what=what)
