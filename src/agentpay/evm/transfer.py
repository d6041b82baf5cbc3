"""
Transfers that their payer signed and others send: one value for each way to sign one.

Whoever holds a `Transfer` may send it, once. What it moved is read from the events it
left behind, never from a status. Nothing here talks to a chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agentpay.evm import eip3009_abi as tokens
from agentpay.evm.calls import Call, Log
from agentpay.evm.eip3009 import Authorization, transfer_digest
from agentpay.evm.erc6492 import inner_signature
from agentpay.evm.hashing import address_word
from agentpay.types import Address, Asset, Hash32


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Which logs a transfer may have left, and what tells them from those like it."""

    address: Address
    topics: tuple[Hash32, ...]
    mark: bytes
    """What the call that sent it holds, where its logs do not name its nonce."""
    by: Address | None = None
    """The contract of that call."""


class Transfer(Protocol):
    """A signed transfer of at most `maximum` from `payer` to `to`."""

    @property
    def asset(self) -> Asset: ...

    @property
    def payer(self) -> Address: ...

    @property
    def to(self) -> Address: ...

    @property
    def maximum(self) -> int: ...

    @property
    def valid_after(self) -> int: ...

    @property
    def valid_before(self) -> int: ...

    @property
    def signature(self) -> bytes:
        """As its message has it: perhaps wrapped (`erc6492`), which `call` undoes."""
        ...

    @property
    def id(self) -> str:
        """What a chain lets happen once: chain, contract, payer and nonce."""
        ...

    @property
    def facilitator(self) -> Address | None:
        """Who alone may send it; None is anyone."""
        ...

    def digest(self) -> bytes:
        """What the payer signed."""
        ...

    def call(self, amount: int) -> Call:
        """Send `amount` of it."""
        ...

    def used_call(self) -> Call:
        """Ask the chain whether it was used or cancelled; see `is_used`."""
        ...

    def is_used(self, answer: bytes) -> bool:
        """
        Raises:
            ValueError: Not an answer to `used_call`.
        """
        ...

    def trace(self) -> Trace:
        """Where to look for the transaction that used it."""
        ...

    def funds_calls(self) -> tuple[Call, ...]:
        """What bounds it on chain: the payer's balance, and perhaps an allowance."""
        ...

    def moved(self, logs: Sequence[Log]) -> int:
        """What a transaction that used it really moved; 0 if nothing."""
        ...


def own_logs(transfer: Transfer, logs: Sequence[Log]) -> Sequence[Log]:
    """
    The logs of one transfer, in a transaction that may have many of its token.

    Two of one payer to one payee may be equal but for their nonces. Each leaves one
    event with its nonce, right before or right after the others that it leaves.
    """
    trace = transfer.trace()
    if trace.mark:
        return logs  # it leaves none, and is never sent with others
    ours = [log for log in logs if log.address == trace.address]
    marks = [n for n, log in enumerate(ours) if log.topics[:1] == trace.topics[:1]]
    if not marks:
        return logs  # a token that says nothing of nonces
    own = [n for n, mark in enumerate(marks) if ours[mark].topics == trace.topics]
    if not own:
        return ()
    if len(marks) == 1:
        return ours
    (at, *_) = own
    if marks[0] == 0:  # the nonce comes first
        last = marks[at + 1] if at + 1 < len(marks) else len(ours)
        return ours[marks[at] : last]
    return ours[marks[at - 1] + 1 if at else 0 : marks[at] + 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTransfer:
    """By EIP-3009: the token itself checks the signature. Implements `Transfer`."""

    asset: Asset
    authorization: Authorization
    signature: bytes

    @property
    def payer(self) -> Address:
        return self.authorization.payer

    @property
    def to(self) -> Address:
        return self.authorization.to

    @property
    def maximum(self) -> int:
        return self.authorization.value

    @property
    def valid_after(self) -> int:
        return self.authorization.valid_after

    @property
    def valid_before(self) -> int:
        return self.authorization.valid_before

    @property
    def id(self) -> str:
        place = f"{self.asset.chain}:{self.asset.address}"
        return f"{place}:{self.payer}:{self.authorization.nonce}"

    @property
    def facilitator(self) -> Address | None:
        return None

    def digest(self) -> bytes:
        """See `Transfer.digest`."""
        return transfer_digest(self.authorization, self.asset)

    def call(self, amount: int) -> Call:
        """See `Transfer.call`; all of it or nothing."""
        if amount != self.maximum:
            raise ValueError(f"{amount} of an exact transfer of {self.maximum}")
        return tokens.transfer_call(
            self.asset.address, self.authorization, inner_signature(self.signature)
        )

    def used_call(self) -> Call:
        """See `Transfer.used_call`."""
        return tokens.authorization_used_call(
            self.asset.address, self.payer, self.authorization.nonce
        )

    def is_used(self, answer: bytes) -> bool:
        """See `Transfer.is_used`."""
        return tokens.decode_uint(answer) != 0

    def trace(self) -> Trace:
        """See `Transfer.trace`."""
        payer, nonce = address_word(self.payer), self.authorization.nonce
        return Trace(
            address=self.asset.address,
            topics=(tokens.AUTHORIZATION_USED, Hash32.of(payer), nonce),
            mark=b"",
        )

    def funds_calls(self) -> tuple[Call, ...]:
        """See `Transfer.funds_calls`."""
        return (tokens.balance_call(self.asset.address, self.payer),)

    def moved(self, logs: Sequence[Log]) -> int:
        """See `Transfer.moved`."""
        amounts = tokens.amounts_paid(
            logs, self.asset.address, payer=self.payer, to=self.to
        )
        return self.maximum if self.maximum in amounts else 0
