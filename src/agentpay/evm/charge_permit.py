"""
MPP charges by Permit2: one transfer, or several at once that all happen or none.

The spender is whoever sends it, so a challenge has to say who that will be. The witness
ties it to the challenge. Its type string has a space, as the draft has it, which no
library that encodes typed data can write; so the form without it is taken as well: the
contract takes either, and both are for one challenge.

Source: draft-evm-charge-00, "Permit2 Payload"; Permit2's `SignatureTransfer`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eth_abi.abi import encode

from agentpay.evm import eip3009_abi as tokens
from agentpay.evm import permit2_abi
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import allowance_call
from agentpay.evm.calls import Call, Log
from agentpay.evm.erc6492 import inner_signature
from agentpay.evm.hashing import (
    address_word,
    keccak,
    selector,
    type_hash,
    typed_digest,
    uint_word,
)
from agentpay.evm.permit2 import PERMITTED_TYPE, TRANSFER_TYPE, separator
from agentpay.evm.permit2 import TOKEN_PERMISSIONS_TYPEHASH as PERMISSIONS_TYPEHASH
from agentpay.evm.transfer import Trace
from agentpay.types import UINT256_MAX, Address, Asset, Hash32

WITNESS_TYPE: Final = "PaymentWitness(bytes32 challengeHash, string externalId)"
"""To the letter of the draft."""
WITNESS_TYPE_ENCODED: Final = "PaymentWitness(bytes32 challengeHash,string externalId)"
"""As EIP-712 encodes it."""

_BATCH_TYPE = TRANSFER_TYPE.replace(
    "PermitWitnessTransferFrom(TokenPermissions permitted,",
    "PermitBatchWitnessTransferFrom(TokenPermissions[] permitted,",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the transfers."""

    to: Address
    amount: int
    permitted: int
    """The most that was signed for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargePermit:
    """A charge that its payer signed, for one spender. Implements `Transfer`."""

    asset: Asset
    payer: Address
    spender: Address
    parts: tuple[Part, ...]
    """The primary transfer, then the splits in their order."""
    nonce: int
    deadline: int
    challenge_hash: Hash32
    external_id: str
    signature: bytes
    witness_type: str = WITNESS_TYPE

    def __post_init__(self) -> None:
        amounts = [n for part in self.parts for n in (part.amount, part.permitted)]
        numbers = (self.nonce, self.deadline, *amounts)
        if not self.parts or not all(0 <= n <= UINT256_MAX for n in numbers):
            raise ValueError("a charge has at least one part, and numbers of 256 bits")

    @property
    def to(self) -> Address:
        return self.parts[0].to

    @property
    def maximum(self) -> int:
        """All of it, shares of others included."""
        return sum(part.amount for part in self.parts)

    @property
    def valid_after(self) -> int:
        return 0

    @property
    def valid_before(self) -> int:
        return self.deadline

    @property
    def id(self) -> str:
        """See `Permit2Transfer.id`: the nonces are the same."""
        nonce = Hash32.of(uint_word(self.nonce))
        return f"{self.asset.chain}:{PERMIT2}:{self.payer}:{nonce}"

    @property
    def facilitator(self) -> Address | None:
        return self.spender

    @property
    def witness(self) -> bytes:
        """What ties it to its challenge."""
        text = keccak(self.external_id.encode())
        words = self.challenge_hash.to_bytes() + text
        return keccak(type_hash(self.witness_type) + words)

    @property
    def witness_type_string(self) -> str:
        """What Permit2 is shown beside the witness."""
        return f"PaymentWitness witness){self.witness_type}{PERMITTED_TYPE}"

    def digest(self) -> bytes:
        """See `Transfer.digest`."""
        permissions = [
            keccak(
                PERMISSIONS_TYPEHASH
                + address_word(self.asset.address)
                + uint_word(part.permitted)
            )
            for part in self.parts
        ]
        if len(permissions) == 1:
            (permitted,), stub = permissions, TRANSFER_TYPE
        else:
            permitted, stub = keccak(b"".join(permissions)), _BATCH_TYPE
        struct = keccak(
            type_hash(stub + self.witness_type_string)
            + permitted
            + address_word(self.spender)
            + uint_word(self.nonce)
            + uint_word(self.deadline)
            + self.witness
        )
        return typed_digest(separator(self.asset.chain), struct)

    def call(self, amount: int) -> Call:
        """See `Transfer.call`; all of it or nothing."""
        if amount != self.maximum:
            raise ValueError(f"{amount} of a charge of {self.maximum}")
        data = self._encoded(inner_signature(self.signature))
        return Call(to=PERMIT2, data=data, what=f"charge {amount} from {self.payer}")

    def _encoded(self, signature: bytes) -> bytes:
        token = self.asset.address
        permitted = [(token, part.permitted) for part in self.parts]
        details = [(part.to, part.amount) for part in self.parts]
        batch = len(self.parts) > 1
        types = permit2_abi.BATCH_CHARGE if batch else permit2_abi.CHARGE
        values = [
            (permitted if batch else permitted[0], self.nonce, self.deadline),
            details if batch else details[0],
            self.payer,
            self.witness,
            self.witness_type_string,
            signature,
        ]
        name = f"permitWitnessTransferFrom({','.join(types)})"
        return selector(name) + encode(types, values)

    def used_call(self) -> Call:
        """See `Transfer.used_call`."""
        return permit2_abi.nonces_call(self.payer, self.nonce)

    def is_used(self, answer: bytes) -> bool:
        """See `Transfer.is_used`."""
        return permit2_abi.is_nonce_used(answer, self.nonce)

    def trace(self) -> Trace:
        """See `Transfer.trace`; the signature stands last, and may be another."""
        payer, to = address_word(self.payer), address_word(self.to)
        return Trace(
            address=self.asset.address,
            topics=(tokens.TRANSFER, Hash32.of(payer), Hash32.of(to)),
            mark=self._encoded(b"")[4:-32],
            by=PERMIT2,
        )

    def funds_calls(self) -> tuple[Call, ...]:
        """See `Transfer.funds_calls`."""
        token = self.asset.address
        return (
            tokens.balance_call(token, self.payer),
            allowance_call(token, owner=self.payer, spender=PERMIT2),
        )

    def moved(self, logs: Sequence[Log]) -> int:
        """See `Transfer.moved`: every part has an event of its own, or none counts."""
        found = Counter(
            (to, amount)
            for to in {part.to for part in self.parts}
            for amount in tokens.amounts_paid(
                logs, self.asset.address, payer=self.payer, to=to
            )
        )
        wanted = Counter((part.to, part.amount) for part in self.parts)
        return self.maximum if wanted <= found else 0
