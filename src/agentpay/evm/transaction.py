"""
Transactions of EIP-1559 that call a contract, as values, and read from signed bytes.

Source: EIP-1559 and EIP-2718. Read strictly: what was written by another program is
not taken for ours.
"""

from dataclasses import dataclass
from typing import Final

from agentpay.evm import rlp
from agentpay.evm.calls import Call
from agentpay.evm.hashing import keccak
from agentpay.types import Address, ChainId, Hash32

_TYPE: Final = b"\x02"
_FIELDS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCall:
    """A call that somebody signed as a transaction; what it costs is part of it."""

    chain: ChainId
    nonce: int
    tip: int
    fee_max: int
    """Wei for each gas, with the tip."""
    gas: int
    to: Address
    value: int
    data: bytes
    raw: bytes
    """All of it, as a node takes it."""

    @property
    def hash(self) -> Hash32:
        return Hash32.of(keccak(self.raw))

    def carries(self, call: Call) -> bool:
        """Whether it does what a call asks for."""
        return (self.to, self.value, self.data) == (call.to, call.value, call.data)

    def call(self, what: str) -> Call:
        """What it does."""
        return Call(to=self.to, data=self.data, value=self.value, what=what)


def read_signed_call(raw: bytes) -> SignedCall:
    """
    Read a signed transaction. Its signature is not checked: a node does that.

    Raises:
        ValueError: It is another kind of transaction, or makes a contract.
    """
    if raw[:1] != _TYPE:
        raise ValueError("not an EIP-1559 transaction")
    items = rlp.decode(raw[1:])
    if isinstance(items, bytes) or len(items) != _FIELDS:
        raise ValueError("not the fields of a signed EIP-1559 transaction")
    to, value, data, access_list = items[5:9]
    if not isinstance(to, bytes) or len(to) != 20 or not isinstance(data, bytes):
        raise ValueError("not a transaction that calls")
    if access_list != []:
        raise ValueError("it has an access list")
    chain, nonce, tip, fee_max, gas = map(rlp.decode_uint, items[:5])
    return SignedCall(
        chain=ChainId(chain),
        nonce=nonce,
        tip=tip,
        fee_max=fee_max,
        gas=gas,
        to=Address("0x" + to.hex()),
        value=rlp.decode_uint(value),
        data=data,
        raw=raw,
    )
