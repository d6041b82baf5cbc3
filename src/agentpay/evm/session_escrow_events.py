"""
Events of the escrow contract of MPP's `evm/session`, as values.

draft-evm-session-00 defines none: these are the events of the Tempo channel that it is
modelled on, as deployed. Of a log that is none of them nothing is made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agentpay.evm.calls import Log
from agentpay.evm.hashing import keccak
from agentpay.evm.session_escrow import Escrow, SessionTerms
from agentpay.types import Address, Hash32


def _topic(signature: str) -> Hash32:
    return Hash32.of(keccak(signature.encode("ascii")))


CHANNEL_OPENED: Final = _topic(
    "ChannelOpened(bytes32,address,address,address,address,bytes32,uint256)"
)
SETTLED: Final = _topic("Settled(bytes32,address,address,uint256,uint256,uint256)")
TOP_UP: Final = _topic("TopUp(bytes32,address,address,uint256,uint256)")
CLOSE_REQUESTED: Final = _topic("CloseRequested(bytes32,address,address,uint256)")
CLOSE_REQUEST_CANCELLED: Final = _topic(
    "CloseRequestCancelled(bytes32,address,address)"
)
CHANNEL_CLOSED: Final = _topic("ChannelClosed(bytes32,address,address,uint256,uint256)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    channel: Hash32
    payer: Address
    payee: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOpened(_Event):
    """A channel was opened on these terms."""

    terms: SessionTerms
    deposit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(_Event):
    """The payee was paid `paid`, and `settled` in all."""

    paid: int
    settled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ToppedUp(_Event):
    """`added` was put in, and `deposit` in all."""

    added: int
    deposit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRequested(_Event):
    """The payer leaves; it can withdraw from `grace_end` on (block time)."""

    grace_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRequestCancelled(_Event):
    """The payer stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelClosed(_Event):
    """It is over: `settled` went to the payee in all, `refunded` back to the payer."""

    settled: int
    refunded: int


SessionEvent = (
    ChannelOpened
    | Settled
    | ToppedUp
    | CloseRequested
    | CloseRequestCancelled
    | ChannelClosed
)


def events_in(logs: Sequence[Log], escrow: Escrow) -> Iterator[SessionEvent]:
    """What an escrow contract said in some logs, in their order."""
    for log in logs:
        event = decode_event(log, escrow)
        if event is not None:
            yield event


def decode_event(log: Log, escrow: Escrow) -> SessionEvent | None:
    """Read a log; `None` if it is no event of this contract."""
    if log.address != escrow.contract or len(log.topics) != 4 or len(log.data) % 32:
        return None
    topic, channel = log.topics[:2]
    payer, payee = (_address(word.to_bytes()) for word in log.topics[2:])
    words = [log.data[at : at + 32] for at in range(0, len(log.data), 32)]
    numbers = [int.from_bytes(word, "big") for word in words]
    match numbers:
        case [_, _, _, deposit] if topic == CHANNEL_OPENED:
            terms = SessionTerms(
                payer=payer,
                payee=payee,
                token=_address(words[0]),
                salt=Hash32.of(words[2]),
                authorized_signer=_address(words[1]),
            )
            return ChannelOpened(
                channel=channel, payer=payer, payee=payee, terms=terms, deposit=deposit
            )
        case [_, paid, settled] if topic == SETTLED:
            return Settled(
                channel=channel, payer=payer, payee=payee, paid=paid, settled=settled
            )
        case [added, deposit] if topic == TOP_UP:
            return ToppedUp(
                channel=channel, payer=payer, payee=payee, added=added, deposit=deposit
            )
        case [grace_end] if topic == CLOSE_REQUESTED:
            return CloseRequested(
                channel=channel, payer=payer, payee=payee, grace_end=grace_end
            )
        case [] if topic == CLOSE_REQUEST_CANCELLED:
            return CloseRequestCancelled(channel=channel, payer=payer, payee=payee)
        case [settled, refunded] if topic == CHANNEL_CLOSED:
            return ChannelClosed(
                channel=channel,
                payer=payer,
                payee=payee,
                settled=settled,
                refunded=refunded,
            )
        case _:
            return None


def _address(word: bytes) -> Address:
    return Address("0x" + word[12:].hex())
