"""
ERC-20's `transfer`, which a payer sends or signs itself, and what proves that it paid.

Only a transaction that calls the token, with these two arguments and nothing behind
them, is taken for one: then its sender is who paid, and no event in it can belong to a
payment that was signed for in another way.

Source: EIP-20.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentpay.evm.calls import Call, Log
from agentpay.evm.eip3009_abi import TRANSFER
from agentpay.evm.hashing import address_word, selector, uint_word
from agentpay.types import Address, Hash32

_TRANSFER: Final = selector("transfer(address,uint256)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTransfer:
    """A call of `transfer`: so much of a token, to somebody, from whoever sends it."""

    token: Address
    to: Address
    amount: int

    def call(self) -> Call:
        data = _TRANSFER + address_word(self.to) + uint_word(self.amount)
        return Call(to=self.token, data=data, what=f"transfer {self.amount}")

    def payer_in(self, logs: Sequence[Log]) -> Address | None:
        """Who paid, by the one event that such a call leaves; None if it is not it."""
        moved = [log for log in logs if log.topics[:1] == (TRANSFER,)]
        if len(moved) != 1 or moved[0].address != self.token:
            return None
        topics, data = moved[0].topics, moved[0].data
        if len(topics) != 3 or topics[2] != Hash32.of(address_word(self.to)):
            return None
        if data != uint_word(self.amount):
            return None
        return Address("0x" + topics[1][-40:])


def read_plain_transfer(token: Address, data: bytes) -> PlainTransfer:
    """
    Read what a `PlainTransfer.call` says, and nothing longer.

    Raises:
        ValueError: It is another call, or has bytes before, between or behind.
    """
    if len(data) != 68 or data[:4] != _TRANSFER or any(data[4:16]):
        raise ValueError("not transfer(address,uint256) and nothing else")
    to = Address("0x" + data[16:36].hex())
    return PlainTransfer(token=token, to=to, amount=int.from_bytes(data[36:], "big"))
