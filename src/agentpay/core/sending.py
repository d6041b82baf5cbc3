"""
How transactions of one key get mined: nonces in a row, fees that rise, nothing twice.

A call has one nonce for good. It may be signed again for more, with that nonce, so that
the chain takes at most one of the attempts; a nonce is free again only where surely
none of them was taken. What is sent, and when, is for the caller to do.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final, assert_never

from agentpay.errors import ConfigurationError, InvariantViolated
from agentpay.types import Hash32

GWEI: Final = 10**9
MARKS: Final = 2**12
"""So many senders of one key can be told apart by the gas that they ask for."""
TURNS: Final = 2**3
"""So many calls of one sender, one after the other, can be."""
_BLOCKS_WITHOUT_US: Final = 2
"""A chain that stands still takes no higher fee either."""
_HURRY_SECONDS_MIN: Final = 1.0
_RAISES_BEFORE_A_DEADLINE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePolicy:
    """What may be paid to have a transaction mined. Amounts are wei."""

    fee_max: int = 500 * GWEI
    """The most for each gas, with the tip."""
    cost_max: int = 10**17
    """The most that one transaction may cost, if it uses all of its gas."""
    raise_seconds: float = 15
    """How long it may wait before more is offered; less, near a deadline."""

    def __post_init__(self) -> None:
        if self.fee_max < 1 or self.cost_max < 1 or not self.raise_seconds > 0:
            raise ConfigurationError(
                "a fee policy has positive limits and waits for a positive time, not"
                f" fee_max {self.fee_max}, cost_max {self.cost_max},"
                f" raise_seconds {self.raise_seconds}"
            )

    def ceiling(self, gas: int) -> int:
        """The most for each gas of a transaction with so much of it."""
        return min(self.fee_max, self.cost_max // gas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """What is offered for each gas (EIP-1559), in wei."""

    tip: int
    most: int
    """With the tip, and whatever the base fee is."""

    def __post_init__(self) -> None:
        if not 0 <= self.tip <= self.most:
            raise InvariantViolated(f"a tip of {self.tip} of at most {self.most}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """What gas costs now: the base fee of the last block, and the tip of the day."""

    base_fee: int
    tip: int

    @property
    def fees(self) -> Fees:
        """What is mined soon, though the base fee double."""
        return Fees(tip=self.tip, most=2 * self.base_fee + self.tip)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One signing of a call."""

    hash: Hash32
    fees: Fees


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A call on its way to be mined, under one nonce."""

    nonce: int
    gas: int
    attempts: tuple[Attempt, ...]
    """For more and more; any one of them may be mined."""
    at: float
    """When the last one was signed, by the caller's clock."""
    block: int
    """The last block of the chain then."""
    deadline: int = 0
    """When it has to be mined, by the chain's clock; 0 is whenever."""
    doubtful: bool = False
    """Nobody knows whether a node has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """All that one key has sent and that is not over, by nonce."""

    sendings: tuple[Sending, ...] = ()

    def get(self, nonce: int) -> Sending | None:
        return next((s for s in self.sendings if s.nonce == nonce), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A call was signed under a free nonce, and recorded."""

    sending: Sending


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """It was signed again for more, and recorded."""

    nonce: int
    attempt: Attempt
    at: float
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A node was asked whether it has it."""

    nonce: int
    found: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Somebody waits for it who has a deadline of his own; 0 is none."""

    nonce: int
    deadline: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """One attempt was mined; or another transaction was, or surely none ever will."""

    nonce: int


Event = Launched | Raised | Looked | Joined | Over


def apply(queue: Queue, event: Event) -> Queue:
    """
    The queue after something happened.

    Raises:
        InvariantViolated: It cannot have.
    """
    match event:
        case Launched(sending=sending):
            if queue.get(sending.nonce) is not None:
                raise InvariantViolated(f"nonce {sending.nonce} is given twice")
            by_nonce = sorted((*queue.sendings, sending), key=lambda s: s.nonce)
            after = replace(queue, sendings=tuple(by_nonce))
        case Raised(nonce=nonce, attempt=attempt, at=at, block=block):
            before = _known(queue, nonce)
            attempts = (*before.attempts, attempt)
            raised_ = replace(before, attempts=attempts, at=at, block=block)
            after = _with(queue, raised_)
        case Looked(nonce=nonce, found=found):
            after = _with(queue, replace(_known(queue, nonce), doubtful=not found))
        case Joined(nonce=nonce, deadline=deadline):
            joined = _known(queue, nonce)
            first = min(filter(None, (joined.deadline, deadline)), default=0)
            after = _with(queue, replace(joined, deadline=first))
        case Over(nonce=nonce):
            rest = [s for s in queue.sendings if s is not _known(queue, nonce)]
            after = replace(queue, sendings=tuple(rest))
        case _:
            assert_never(event)
    _check(after)
    return after


def free_nonce(queue: Queue, first: int, taken: Collection[int] = ()) -> int:
    """The first nonce from `first` on that is neither ours nor known to be taken."""
    held = {sending.nonce for sending in queue.sendings}
    while first in held or first in taken:
        first += 1
    return first


def marked_gas(needed: int, *, mark: int, turn: int, most: int) -> int:
    """
    The gas to ask for: at least a quarter more than is needed, and such that it bears
    the mark of its sender and the turn of its call, unless that is above `most`.

    So the same call makes other bytes when a sender with another mark sends it, and
    when it is sent again: what a node has already is this call. Gas that is not used
    costs nothing, whereas by a difference in fees one would replace the other.
    """
    roomy = needed + needed // 4
    own = MARKS * (turn % TURNS) + mark
    return min(roomy + (own - roomy) % (MARKS * TURNS), most)


def first_fees(market: Market, *, gas: int, policy: FeePolicy) -> Fees | None:
    """What to offer at first; None where not even the next block would take it."""
    ceiling = policy.ceiling(gas)
    if ceiling < market.base_fee:
        return None
    most = min(market.fees.most, ceiling)
    return Fees(tip=min(market.tip, most), most=most)


def higher_fees(
    fees: Fees, market: Market, *, gas: int, policy: FeePolicy
) -> Fees | None:
    """
    What to offer in place of `fees`; None where the policy does not allow so much.

    Nodes replace a transaction for one with an eighth more of both.
    """
    tip, most = _an_eighth_more(fees.tip), _an_eighth_more(fees.most)
    ceiling = policy.ceiling(gas)
    if most > ceiling:
        return None
    most = min(max(most, market.fees.most), ceiling)
    return Fees(tip=min(max(tip, market.tip), most), most=most)


def wants_more(
    sending: Sending, *, now: float, block: int, chain_time: int, policy: FeePolicy
) -> bool:
    """Whether blocks came without it for too long: sooner near its deadline."""
    if block - sending.block < _BLOCKS_WITHOUT_US:
        return False
    patience = policy.raise_seconds
    if sending.deadline:
        left = (sending.deadline - chain_time) / _RAISES_BEFORE_A_DEADLINE
        patience = min(patience, max(_HURRY_SECONDS_MIN, left))
    return now - sending.at >= patience


def _an_eighth_more(fee: int) -> int:
    return fee + fee // 8 + 1


def _known(queue: Queue, nonce: int) -> Sending:
    sending = queue.get(nonce)
    if sending is None:
        raise InvariantViolated(f"nothing was sent with nonce {nonce}")
    return sending


def _with(queue: Queue, changed: Sending) -> Queue:
    sendings = [changed if s.nonce == changed.nonce else s for s in queue.sendings]
    return replace(queue, sendings=tuple(sendings))


def _check(queue: Queue) -> None:
    nonces = [sending.nonce for sending in queue.sendings]
    hashes = [a.hash for s in queue.sendings for a in s.attempts]
    rules = {
        "nonces are in order, each once": nonces == sorted(set(nonces)),
        "what is sent was signed": all(s.attempts for s in queue.sendings),
        "no two attempts are the same": len(hashes) == len(set(hashes)),
        "each attempt offers an eighth more than the one before": all(
            8 * later.fees.tip >= 9 * earlier.fees.tip
            and 8 * later.fees.most >= 9 * earlier.fees.most
            for s in queue.sendings
            for earlier, later in zip(s.attempts, s.attempts[1:], strict=False)
        ),
    }
    for rule, holds in rules.items():
        if not holds:
            raise InvariantViolated(f"broken: {rule}")
