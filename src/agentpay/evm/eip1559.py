"""
Whole transactions that call a contract, signed by whoever pays for them.

Others send them. It is somebody else's transaction, so it is read to its last byte:
EIP-1559, no value, no access list, and one encoding. What its call may be is for the
caller to say.

Source: EIP-1559 and EIP-2718.
"""

from dataclasses import dataclass, field
from typing import Final

from agentpay.evm import rlp
from agentpay.evm.hashing import keccak
from agentpay.evm.signature import recover
from agentpay.types import UINT256_MAX, Address, ChainId, Hash32

RAW_MAX: Final = 512
"""Bytes; one that calls a token with two arguments has some 180."""

_TYPE: Final = b"\x02"
_FIELDS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTransaction:
    """A transaction that calls a contract and sends no coin, not signed yet."""

    chain: ChainId
    nonce: int
    """The next one of the account that signs it."""
    tip: int
    fee_max: int
    """Wei for each gas, with the tip."""
    gas: int
    to: Address
    data: bytes

    def __post_init__(self) -> None:
        for number in (self.nonce, self.tip, self.fee_max, self.gas):
            if not 0 <= number <= UINT256_MAX:
                raise ValueError(f"{number} is not a uint256")

    @property
    def cost(self) -> int:
        """The most wei that it can cost whoever signs it."""
        return self.gas * self.fee_max

    def digest(self) -> bytes:
        """What its sender signs."""
        return keccak(_TYPE + rlp.encode(self.fields()))

    def fields(self) -> list[rlp.Item]:
        """All but the signature, in the order of EIP-1559."""
        numbers = (self.chain, self.nonce, self.tip, self.fee_max, self.gas)
        value, access_list = b"", list[rlp.Item]()
        encoded = map(rlp.encode_uint, numbers)
        return [*encoded, self.to.to_bytes(), value, self.data, access_list]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCall:
    """A transaction that anybody can send, and its signer pays for."""

    call: CallTransaction
    signature: bytes
    owner: Address = field(init=False)
    """Who signed it."""

    def __post_init__(self) -> None:
        signer = recover(self.call.digest(), self.signature)
        object.__setattr__(self, "owner", signer)

    @property
    def raw(self) -> bytes:
        """The bytes that a node takes."""
        parity = self.signature[64] - 27
        r, s = self.signature[:32], self.signature[32:64]
        numbers = (parity, int.from_bytes(r, "big"), int.from_bytes(s, "big"))
        signed = [*self.call.fields(), *map(rlp.encode_uint, numbers)]
        return _TYPE + rlp.encode(signed)

    @property
    def hash(self) -> Hash32:
        return Hash32.of(keccak(self.raw))


def read_signed_call(raw: bytes) -> SignedCall:
    """
    Read a signed transaction that calls a contract and does nothing else.

    Raises:
        ValueError: It is another transaction, or not in its one encoding.
    """
    if len(raw) > RAW_MAX or raw[:1] != _TYPE:
        raise ValueError(f"not an EIP-1559 transaction of at most {RAW_MAX} bytes")
    items = rlp.decode(raw[1:])
    if isinstance(items, bytes) or len(items) != _FIELDS:
        raise ValueError("not the fields of a signed EIP-1559 transaction")
    to, value, data, access_list = items[5:9]
    if not isinstance(to, bytes) or len(to) != 20 or not isinstance(data, bytes):
        raise ValueError("not a transaction to a token")
    if value != b"" or access_list != []:
        raise ValueError("it sends coin, or has an access list")
    chain, nonce, tip, fee_max, gas = map(rlp.decode_uint, items[:5])
    parity, r, s = map(rlp.decode_uint, items[9:])
    if parity > 1 or max(r, s) > UINT256_MAX:
        raise ValueError("its signature is none")
    call = CallTransaction(
        chain=ChainId(chain),
        nonce=nonce,
        tip=tip,
        fee_max=fee_max,
        gas=gas,
        to=Address("0x" + to.hex()),
        data=data,
    )
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((27 + parity,))
    return SignedCall(call=call, signature=signature)
