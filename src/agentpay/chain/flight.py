"""
One sent call: its signed bytes, and whoever waits until it is mined.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from agentpay.core.sending import Attempt, Fees
from agentpay.evm.calls import Call
from agentpay.evm.transaction import SignedCall, read_signed_call
from agentpay.records import SentTransaction
from agentpay.types import Address, Hash32

Landed = asyncio.Future[dict[str, Any] | None]
"""
The receipt of whichever attempt was mined, as the node's JSON.

None if another transaction used the nonce, so that this call never can be mined.
"""


class Flight:
    """A call under one nonce. One caller at a time waits for it, or nobody."""

    def __init__(
        self, call: Call, attempts: Sequence[SignedCall], *, deadline: int = 0
    ) -> None:
        self.call = call
        self.attempts = list(attempts)
        self.deadline = deadline
        self.missing_since: float | None = None
        self.warned = False
        self._landed: Landed | None = None

    @classmethod
    def of(cls, sent: SentTransaction) -> "Flight":
        """
        What was recorded before a restart; nobody waits for it.

        Raises:
            ValueError: The bytes are no transaction of ours.
        """
        attempts = [read_signed_call(raw) for raw in sent.raws]
        call = attempts[0].call(sent.what)
        if any((a.nonce, a.carries(call)) != (sent.nonce, True) for a in attempts):
            raise ValueError(f"the attempts of nonce {sent.nonce} are not of one call")
        return cls(call, attempts, deadline=sent.deadline)

    @property
    def nonce(self) -> int:
        return self.attempts[0].nonce

    @property
    def gas(self) -> int:
        return self.attempts[0].gas

    @property
    def last(self) -> SignedCall:
        """The attempt that offers the most."""
        return self.attempts[-1]

    @property
    def hash(self) -> Hash32:
        """What to tell people to look for."""
        return self.last.hash

    @property
    def raw(self) -> str:
        """The bytes of the last attempt, as a node takes them."""
        return "0x" + self.last.raw.hex()

    @property
    def awaited(self) -> bool:
        """Whether somebody still waits for it."""
        return self._landed is not None and not self._landed.done()

    def landed(self) -> Landed:
        """Wait for it, unshielded: whoever stops waiting cancels it, and is gone."""
        if self._landed is None or self._landed.cancelled():
            self._landed = asyncio.get_running_loop().create_future()
        return self._landed

    def land(self, receipt: dict[str, Any] | None) -> None:
        """It is over."""
        if self._landed is not None and not self._landed.done():
            self._landed.set_result(receipt)

    def record(self, account: Address) -> SentTransaction:
        """What has to be kept of it before it is sent."""
        return SentTransaction(
            chain=self.last.chain,
            account=account,
            nonce=self.nonce,
            raws=tuple(attempt.raw for attempt in self.attempts),
            what=self.call.what,
            deadline=self.deadline,
        )


def attempt_of(signed: SignedCall) -> Attempt:
    """What the rules need to know of signed bytes."""
    fees = Fees(tip=signed.tip, most=signed.fee_max)
    return Attempt(hash=signed.hash, fees=fees)
