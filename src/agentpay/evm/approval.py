"""
Transactions by which a payer approves Permit2, signed whole, for others to send.

It is somebody else's transaction, so it is read to its last byte: an EIP-1559 one to a
token, of no value, without an access list, that calls `approve(Permit2, amount)` and
nothing else (F7). A value that exists is such a transaction.

Source: EIP-1559, EIP-2718 and x402 `specs/extensions/erc20_gas_sponsoring.md`.
"""

from dataclasses import dataclass, field
from typing import Final

from agentpay.evm import rlp
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import approve_call, read_approve
from agentpay.evm.hashing import keccak
from agentpay.evm.signature import recover
from agentpay.types import UINT256_MAX, Address, ChainId, Hash32

APPROVAL_GAS: Final = 70_000
"""What a payer's approval may use; tokens need some 46,000 to 60,000."""

RAW_MAX: Final = 512
"""Bytes; such a transaction has some 180."""

_TYPE: Final = b"\x02"
_FIELDS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalTransaction:
    """A transaction that lets Permit2 move `amount` of a token, not signed yet."""

    chain: ChainId
    nonce: int
    """The next one of the account that signs it."""
    tip: int
    fee_max: int
    """Wei for each gas, with the tip."""
    gas: int
    token: Address
    amount: int

    def __post_init__(self) -> None:
        for number in (self.nonce, self.tip, self.fee_max, self.gas, self.amount):
            if not 0 <= number <= UINT256_MAX:
                raise ValueError(f"{number} is not a uint256")

    @property
    def cost(self) -> int:
        """The most wei that it can cost whoever signs it."""
        return self.gas * self.fee_max

    def digest(self) -> bytes:
        """What the payer signs."""
        return keccak(_TYPE + rlp.encode(self.fields()))

    def signed(self, signature: bytes) -> "SignedApproval":
        """
        The transaction under its signature.

        Raises:
            BadSignature: Not 65 bytes of a key.
        """
        return SignedApproval(approval=self, signature=signature)

    def fields(self) -> list[rlp.Item]:
        """All but the signature, in the order of EIP-1559."""
        numbers = (self.chain, self.nonce, self.tip, self.fee_max, self.gas)
        call = approve_call(self.token, spender=PERMIT2, amount=self.amount)
        to, value, access_list = self.token.to_bytes(), b"", list[rlp.Item]()
        return [*map(rlp.encode_uint, numbers), to, value, call.data, access_list]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedApproval:
    """An approval that anybody can send, and its signer pays for."""

    approval: ApprovalTransaction
    signature: bytes
    owner: Address = field(init=False)
    """Who signed it."""

    def __post_init__(self) -> None:
        signer = recover(self.approval.digest(), self.signature)
        object.__setattr__(self, "owner", signer)

    @property
    def raw(self) -> bytes:
        """The bytes that a node takes."""
        parity = self.signature[64] - 27
        r, s = self.signature[:32], self.signature[32:64]
        numbers = (parity, int.from_bytes(r, "big"), int.from_bytes(s, "big"))
        signed = [*self.approval.fields(), *map(rlp.encode_uint, numbers)]
        return _TYPE + rlp.encode(signed)

    @property
    def hash(self) -> Hash32:
        return Hash32.of(keccak(self.raw))


def read_approval(raw: bytes) -> SignedApproval:
    """
    Read a signed transaction that approves Permit2 and does nothing else.

    Raises:
        ValueError: It is another transaction, or not in its one encoding.
    """
    if len(raw) > RAW_MAX or raw[:1] != _TYPE:
        raise ValueError("not an EIP-1559 transaction of an approval's size")
    items = rlp.decode(raw[1:])
    if isinstance(items, bytes) or len(items) != _FIELDS:
        raise ValueError("not the fields of a signed EIP-1559 transaction")
    to, value, data, access_list = items[5:9]
    if not isinstance(to, bytes) or len(to) != 20 or not isinstance(data, bytes):
        raise ValueError("not a transaction to a token")
    if value != b"" or access_list != []:
        raise ValueError("it sends coin, or has an access list")
    spender, amount = read_approve(data)
    if spender != PERMIT2:
        raise ValueError(f"it approves {spender}, not Permit2")
    chain, nonce, tip, fee_max, gas = map(rlp.decode_uint, items[:5])
    parity, r, s = map(rlp.decode_uint, items[9:])
    if parity > 1 or max(r, s) > UINT256_MAX:
        raise ValueError("its signature is none")
    approval = ApprovalTransaction(
        chain=ChainId(chain),
        nonce=nonce,
        tip=tip,
        fee_max=fee_max,
        gas=gas,
        token=Address("0x" + to.hex()),
        amount=amount,
    )
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((27 + parity,))
    return approval.signed(signature)
