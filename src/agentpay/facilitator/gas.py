"""
What gas may cost whoever pays it: a cap for each call, and a limit for each hour.

An estimate is what a contract makes of it, so a hostile token or wallet may ask for
anything. These are absolute, and an estimate above them is refused.
"""

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from agentpay.errors import (
    ChainUnreachable,
    GasLimitReached,
    GasMissing,
    GasTooExpensive,
    StoreError,
    TransactionFailed,
)
from agentpay.evm.calls import Receipt, Reverted
from agentpay.types import Address

_HOUR = 3600
_ROWS_TO_LEARN = 10
_ROW_MIN = 20_000
"""No channel is claimed for less: its state is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GasLimits:
    """The most gas a call of each kind may use, at the estimate and when sent."""

    transfer: int = 250_000
    split: int = 80_000
    """For each share of somebody else in a transfer, beside `transfer`."""
    deposit: int = 400_000
    funding: int = 30_000
    """For sending coin to a payer whose approval is paid for (`sponsor`)."""
    wallet: int = 500_000
    """For making a payer's wallet first (ERC-6492), beside what it pays for."""
    claim: int = 150_000
    claim_row: int = 60_000
    """For each channel of a claim, beside `claim`."""
    settle: int = 150_000
    refund: int = 300_000
    batch: int = 15_000_000
    """For many transfers in one transaction."""

    def transfers(self, parts: int) -> int:
        """For a transfer of so many parts."""
        return self.transfer + (parts - 1) * self.split

    def claims(self, rows: int) -> int:
        """For a claim of so many channels; none is no claim."""
        return self.claim + rows * self.claim_row if rows else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionGas:
    """The most gas that one call of each kind may use, whatever a token asks for."""

    opening: int = 350_000
    top_up: int = 250_000
    settle: int = 200_000
    close: int = 250_000


TRANSACTION_GAS_MAX: Final = 2**24
"""What one transaction may have on any chain (EIP-7825)."""


class ClaimSize:
    """How many channels fit one claim: by what a claim may use, and what it does."""

    def __init__(self, limits: GasLimits, *, most: int) -> None:
        """No claim is of more than `most` channels, however cheap they are."""
        self._base = limits.claim
        self._row = limits.claim_row
        self._most = most
        self._room = TRANSACTION_GAS_MAX
        self.knows_block = False

    def see_block(self, gas_limit: int) -> None:
        """Half of a block at most: a transaction that fills one is mined late."""
        self.knows_block = True
        if gas_limit:
            self._room = min(TRANSACTION_GAS_MAX, gas_limit // 2)

    def see_claim(self, rows: int, gas_used: int) -> None:
        """So much did a claim use; a few rows say little of what many would."""
        if rows >= _ROWS_TO_LEARN:
            self._row = max(_ROW_MIN, gas_used // rows)

    @property
    def rows(self) -> int:
        """So many, with a quarter of the gas to spare, as what is sent has."""
        return max(1, min(self._most, (self._room * 4 // 5 - self._base) // self._row))


class Spent:
    """Gas of one transaction: what it may use until it is known what it did."""

    __slots__ = ("at", "gas", "payee")

    def __init__(self, *, at: float, payee: Address, gas: int) -> None:
        self.at = at
        self.payee = payee
        self.gas = gas


class GasSpending:
    """
    What was spent in the last hour, of gas or of whatever pays it. Forgets at a
    restart; belongs to one loop.
    """

    def __init__(
        self, *, per_hour: int, per_payee_hour: int, clock: Callable[[], float]
    ) -> None:
        self._per_hour = per_hour
        self._per_payee_hour = per_payee_hour
        self._clock = clock
        self._spent: deque[Spent] = deque()
        self._total = 0
        self._by_payee: Counter[Address] = Counter()

    def reserve(self, payee: Address, gas: int) -> Spent:
        """
        Count what a transaction may use at most, before it is sent.

        Raises:
            GasLimitReached: The hour's gas, or this payee's of it, is used up.
        """
        self._forget_old()
        if self._total + gas > self._per_hour:
            raise GasLimitReached(who="all payees", limit=self._per_hour)
        if self._by_payee[payee] + gas > self._per_payee_hour:
            raise GasLimitReached(who=payee, limit=self._per_payee_hour)
        spent = Spent(at=self._clock(), payee=payee, gas=gas)
        self._spent.append(spent)
        self._add(payee, gas)
        return spent

    def allows(self, payee: Address, gas: int) -> bool:
        """Whether so much could be reserved now."""
        self._forget_old()
        left = self._per_payee_hour - self._by_payee[payee]
        return gas <= min(left, self._per_hour - self._total)

    async def pay(
        self,
        spent: Spent,
        sending: Awaitable[Receipt],
        *,
        cost: Callable[[Receipt], int],
    ) -> Receipt:
        """
        Wait for what is sent, and count what it cost really, also if it reverted.

        Raises:
            ChainError, StoreUnavailable: See `Sender.send`.
        """
        try:
            receipt = await sending
        except Reverted as error:
            self.correct(spent, cost(error.receipt))
            raise
        except TransactionFailed as error:
            if not error.transaction:
                self.correct(spent, 0)
            raise
        except (ChainUnreachable, GasMissing, GasTooExpensive, StoreError):
            self.correct(spent, 0)
            raise
        self.correct(spent, cost(receipt))
        return receipt

    def correct(self, spent: Spent, gas: int) -> None:
        """It used so much really; 0 if it was not sent."""
        if spent.gas:  # else an hour has passed, and it counts no more
            self._add(spent.payee, gas - spent.gas)
            spent.gas = gas

    def _forget_old(self) -> None:
        while self._spent and self._spent[0].at <= self._clock() - _HOUR:
            old = self._spent.popleft()
            self._add(old.payee, -old.gas)
            old.gas = 0

    def _add(self, payee: Address, gas: int) -> None:
        self._total += gas
        self._by_payee[payee] += gas
        if not self._by_payee[payee]:
            del self._by_payee[payee]
