"""
The promises that adapters keep: signers, chains and stores.

Orchestration is written against these, and every adapter passes the same tests.
"""

from collections.abc import Sequence
from typing import Protocol

from agentpay.evm.calls import Block, Call, Log, Receipt
from agentpay.types import Address, ChainId, Hash32


class Signer(Protocol):
    """Holds one key. Signing may be remote, so it is awaited."""

    @property
    def address(self) -> Address: ...

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        """
        Sign 32 bytes; returns 65 bytes r, s, v with low s and v 27 or 28 (EIP-2).

        Raises:
            UnsafeKey: A publicly known test key, and `chain` is not local.
        """
        ...


class Chain(Protocol):
    """Reads one EVM chain. Every method may raise `ChainUnreachable`."""

    @property
    def chain_id(self) -> ChainId: ...

    async def check(self) -> None:
        """
        Raises:
            WrongChain: The endpoint serves another chain than `chain_id`.
        """
        ...

    async def head(self) -> Block: ...

    async def read(
        self, calls: Sequence[Call], *, block: int | None = None
    ) -> list[bytes]:
        """
        Answer several calls in one round trip, in order, all at one block.

        Raises:
            TransactionFailed: One of them reverts.
        """
        ...

    async def code(self, address: Address) -> bytes:
        """The code at an address; empty for an account without any."""
        ...

    async def logs(
        self,
        *,
        address: Address,
        topics: Sequence[Hash32 | None],
        first_block: int,
        last_block: int,
    ) -> list[Log]:
        """The events of one contract in a range of blocks, oldest first."""
        ...

    async def receipt(self, transaction: Hash32) -> Receipt | None:
        """
        The receipt of a transaction, or None while it is not mined.

        Raises:
            TransactionFailed: It was mined and reverted.
        """
        ...


class Sender(Protocol):
    """Sends transactions from one gas-paying key, one nonce after another."""

    @property
    def address(self) -> Address: ...

    async def simulate(self, call: Call) -> None:
        """
        Raises:
            TransactionFailed: The call would revert; `reason` names the error.
        """
        ...

    async def send(self, call: Call) -> Receipt:
        """
        Simulate, send, and wait until mined. Many calls may be in flight at once.

        Raises:
            TransactionFailed: Refused in simulation, or mined and reverted.
            TransactionOutcomeUnknown: Sent, and not mined in time.
            ChainUnreachable: It was not sent.
        """
        ...
