"""What one asks of a contract and what a chain says back, as plain values."""

from dataclasses import dataclass

from agentpay.errors import TransactionFailed
from agentpay.types import Address, Hash32


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A contract call: where to, and the ABI-encoded data."""

    to: Address
    data: bytes
    what: str
    """What this does, for people: `claim 40 channels`."""
    value: int = 0
    """Wei that go along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """An event that a transaction left behind."""

    address: Address
    topics: tuple[Hash32, ...]
    data: bytes
    block: int
    transaction: Hash32
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The head of a chain; its timestamp is the clock of every on-chain deadline."""

    number: int
    timestamp: int
    gas_limit: int = 0
    """What all its transactions may use together; 0 if the node does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A mined transaction, which did not revert unless `Reverted` says so."""

    transaction: Hash32
    block: int
    gas_used: int
    gas_price: int
    logs: tuple[Log, ...]
    to: Address | None = None
    """The contract that was called; None is a new one."""


class Reverted(TransactionFailed):
    """A transaction of ours was mined, cost its gas, and moved nothing."""

    def __init__(self, what: str, *, reason: str, receipt: Receipt) -> None:
        super().__init__(what, reason=reason, transaction=receipt.transaction)
        self.receipt = receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What an account may send now, and what gas costs."""

    nonce: int
    """Of its next transaction, after those that are mined."""
    balance: int
    """Wei."""
    base_fee: int
    tip: int
    """What a node suggests above the base fee."""
