"""
Writes `vectors/parallel_channels.json`: `python -m tests.core.parallel_vectors`.

Each case is a channel, the events that happen to it, and after each the answer and the
books that our rules give; another implementation should give the same. Amounts are
decimal strings. A test fails when the file is not what this would write.
"""

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path

from agentpay.core import payee_rules, payer_rules
from agentpay.core.payee_channel import PayeeChannel
from agentpay.core.payee_events import (
    ChainSeen,
    Event,
    OutcomeAsked,
    OwnersDied,
    RefundDone,
    VoucherPublished,
)
from agentpay.core.payer_channel import (
    CloseWanted,
    DepositArrived,
    PayerChannel,
    PayerEvent,
    SpentReported,
    TicketArrived,
    TicketCharged,
    TicketOld,
    TicketVoid,
)

from .factories import (
    ALIVE,
    REBORN,
    charged,
    delivered,
    given_back,
    payee_channel,
    payer_channel,
    pending_deposit,
    refund_asked,
    sold,
    voucher,
    wanted,
)

PATH = Path(__file__).parents[2] / "vectors" / "parallel_channels.json"
Json = str | bool | None | list["Json"] | dict[str, "Json"]

UNIT = 10**18
ABOUT = (
    "See docs/parallel-channels.md. Written by python -m tests.core.parallel_vectors."
)

PAYEE: dict[str, tuple[PayeeChannel, Sequence[Event]]] = {
    "requests in any order, charged less than reserved": (
        payee_channel(),
        [
            voucher(20, 10),
            voucher(10, 10),
            voucher(30, 10),
            charged(10, 5),
            delivered(10),
            charged(30, 0),
            delivered(30),
            charged(20, 10),
            delivered(20),
        ],
    ),
    "a used amount is answered, never served": (
        payee_channel(),
        [
            *sold(10, 10, 5),
            voucher(10, 5),
            voucher(10, 10),
            *sold(20, 10, 5),
            voucher(20, 10),
        ],
    ),
    "a refused voucher is burnt": (
        payee_channel(balance=5),
        [
            voucher(10, 10),
            ChainSeen(balance=15, claimed=0, pending_withdrawal=0),
            voucher(10, 10),
            voucher(5, 5),
        ],
    ),
    "the window and the floor": (
        payee_channel(window=2, balance=100 * UNIT),
        [
            *sold(UNIT, 1, 1),
            *sold(50 * UNIT, 1, 1),
            *sold(99 * UNIT, 1, 1),
            voucher(UNIT, 1),
            voucher(2 * UNIT, 1),
            voucher(50 * UNIT, 1),
        ],
    ),
    "a receipt frees what it did not charge": (
        payee_channel(in_flight_max=1),
        [voucher(10, 10), charged(10, 3), voucher(13, 10), given_back(10)],
    ),
    "a fixed price is charged first and given back": (
        payee_channel(),
        [
            voucher(10, 10, prepaid=True),
            given_back(10),
            voucher(20, 10, prepaid=True),
            charged(20, 10),
            given_back(20),
        ],
    ),
    "a stream charges slice by slice": (
        payee_channel(),
        [
            voucher(10, 10),
            charged(10, 4, more=True),
            charged(10, 9, more=True),
            given_back(10, 9),
        ],
    ),
    "a crash: the same request runs again, others do not": (
        payee_channel(),
        [
            voucher(10, 10, prepaid=True),
            voucher(20, 10),
            charged(20, 4, more=True),
            voucher(10, 10, prepaid=True, owner=REBORN, resource="GET /other"),
            voucher(10, 10, prepaid=True, owner=REBORN),
            given_back(10, owner=REBORN),
            delivered(20),
            OutcomeAsked(cumulative=20, owner=REBORN),
        ],
    ),
    "owners that died": (
        payee_channel(),
        [
            voucher(10, 10),
            voucher(20, 10, owner=REBORN),
            OwnersDied(owner=REBORN),
            charged(10, 10),
        ],
    ),
    "a withdrawal is a fact": (
        payee_channel(),
        [
            voucher(20, 20),
            ChainSeen(balance=100, claimed=0, pending_withdrawal=95),
            voucher(30, 5),
            ChainSeen(balance=5, claimed=0, pending_withdrawal=0),
            charged(20, 20),
            delivered(20),
        ],
    ),
    "a refund": (
        payee_channel(),
        [
            voucher(10, 10),
            refund_asked(10),
            refund_asked(11),
            voucher(20, 1),
            voucher(11, 1),
            charged(10, 4),
            delivered(10),
            refund_asked(11),
            VoucherPublished(amount=10),
            RefundDone(),
            ChainSeen(balance=104, claimed=4, pending_withdrawal=0),
            voucher(30, 1),
        ],
    ),
    "asking for an outcome": (
        payee_channel(),
        [
            OutcomeAsked(cumulative=10, owner=ALIVE),
            voucher(10, 10),
            *sold(20, 10, 3),
            OutcomeAsked(cumulative=20, owner=ALIVE),
        ],
    ),
    "an untagged channel follows the specification": (
        payee_channel(tagged=False),
        [
            voucher(10, 10),
            voucher(20, 10),
            charged(10, 3),
            delivered(10),
            voucher(20, 10),
            voucher(13, 10),
            given_back(13),
            voucher(13, 10),
            given_back(13),
            VoucherPublished(amount=13),
            voucher(13, 10),
            refund_asked(3),
            voucher(14, 11),
            RefundDone(),
        ],
    ),
}

PAYER: dict[str, tuple[PayerChannel, Sequence[PayerEvent]]] = {
    "requests in flight, one void, one cheaper": (
        payer_channel(),
        [
            wanted(10),
            wanted(5),
            TicketVoid(cumulative=10),
            TicketCharged(cumulative=15, charged=3),
            wanted(5),
            wanted(3),
        ],
    ),
    "what is signed stays within the headroom": (
        payer_channel(headroom=12),
        [
            wanted(13),
            wanted(10),
            wanted(3),
            TicketVoid(cumulative=10),
            wanted(10),
            TicketVoid(cumulative=11),
            wanted(10),
            TicketVoid(cumulative=12),
            wanted(10),
            wanted(2),
        ],
    ),
    "a lower amount once a higher one arrived": (
        payer_channel(balance=10, headroom=10, window=4),
        [
            wanted(10),
            TicketCharged(cumulative=10, charged=8),
            wanted(1),
            TicketCharged(cumulative=9, charged=0),
            wanted(2),
        ],
    ),
    "a voucher under way stays in the payee's window": (
        payer_channel(window=2, in_flight_max=2),
        [
            wanted(1),
            wanted(1),
            TicketCharged(cumulative=2, charged=1),
            wanted(1),
            TicketArrived(cumulative=1),
            wanted(1),
            TicketOld(cumulative=1),
        ],
    ),
    "deposits, one at a time": (
        payer_channel(balance=0),
        [
            wanted(10),
            wanted(10, deposit=pending_deposit(50)),
            wanted(10, deposit=pending_deposit(50, salt=2)),
            DepositArrived(salt=pending_deposit(50).salt),
            wanted(10),
        ],
    ),
    "a payee that claims too much is stopped": (
        payer_channel(),
        [
            wanted(10),
            SpentReported(charged=10),
            SpentReported(charged=11),
            wanted(1),
        ],
    ),
    "a refund asked twice": (
        payer_channel(),
        [
            wanted(10),
            CloseWanted(),
            TicketCharged(cumulative=10, charged=10),
            CloseWanted(),
            CloseWanted(),
        ],
    ),
    "a lane": (
        payer_channel(tagged=False),
        [
            wanted(10),
            wanted(1),
            TicketCharged(cumulative=10, charged=3),
            wanted(5),
            TicketCharged(cumulative=8, charged=0),
            CloseWanted(),
        ],
    ),
}


OF_SESSIONS = {"pays_whole", "delivered", "rise", "whole"}
"""What only sessions of MPP have: none is in these."""
OF_LANES = {"carries", "again", "late"}
"""What is done where a payee serves one request at a time."""

OF_OURS = {"living", "exposure_max"}
"""What is not of the protocol: other processes, and a payee's own limit."""
OF_PARTS = {"part", "nonce", "refunded", "transaction"}
"""What is said of a refund of a part, which no parallel channel makes."""


def encode(value: object) -> Json:
    """A value as JSON that loses nothing: numbers are decimal strings."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if is_dataclass(value):
        return {
            field.name: encode(getattr(value, field.name))
            for field in fields(value)
            if field.init
            and field.name not in OF_SESSIONS | OF_LANES | OF_OURS | OF_PARTS
        }
    raise TypeError(f"no JSON for {value!r}")


def named(value: object) -> Json:
    """An event or answer: its kind, then what it says (without signatures)."""
    said = encode(value)
    assert isinstance(said, dict)
    said.pop("signature", None)
    return {"kind": type(value).__name__, **said}


def payee_case(
    channel: PayeeChannel, events: Sequence[Event]
) -> tuple[Json, list[Json]]:
    steps: list[Json] = []
    start = payee_books(channel)
    for event in events:
        transition = payee_rules.apply(channel, event)
        channel = transition.channel
        answer, books = named(transition.answer), payee_books(channel)
        steps.append({"event": named(event), "answer": answer, "books": books})
    return start, steps


def payee_books(channel: PayeeChannel) -> Json:
    said = encode(channel)
    assert isinstance(said, dict)
    claim = channel.claim_voucher()
    said["held"] = encode([voucher.amount for voucher in channel.held])
    said["due"], said["reserved"] = encode(channel.due), encode(channel.reserved)
    said["claim_with"] = encode(claim.amount if claim else None)
    return said


def payer_case(
    channel: PayerChannel, events: Sequence[PayerEvent]
) -> tuple[Json, list[Json]]:
    steps: list[Json] = []
    start = encode(channel)
    for event in events:
        transition = payer_rules.apply(channel, event)
        channel = transition.channel
        answer, books = named(transition.answer), encode(channel)
        steps.append({"event": named(event), "answer": answer, "books": books})
    return start, steps


def render() -> str:
    """The whole file, with each step on a line of its own."""
    lines = ["{", f' "about": {json.dumps(ABOUT)},', ' "payee": {']
    lines += _lines({name: payee_case(*case) for name, case in PAYEE.items()})
    lines += [" },", ' "payer": {']
    lines += _lines({name: payer_case(*case) for name, case in PAYER.items()})
    return "\n".join([*lines, " }", "}"]) + "\n"


def _lines(cases: dict[str, tuple[Json, list[Json]]]) -> list[str]:
    lines: list[str] = []
    for name, (channel, steps) in cases.items():
        lines += [f"  {json.dumps(name)}: {{", f'   "channel": {json.dumps(channel)},']
        lines += ['   "steps": [']
        lines += [f"    {json.dumps(step)}," for step in steps]
        lines[-1] = lines[-1].removesuffix(",")
        lines += ["   ]", "  },"]
    lines[-1] = lines[-1].removesuffix(",")
    return lines


if __name__ == "__main__":
    PATH.write_text(render())
