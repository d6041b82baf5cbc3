"""
What a payee pays in an hour for the gas of its payers' deposits, and of refunds of
parts of them.

Whoever opens a channel pays the payee nothing for that, and may ask for the money back
at once, or for part after part of it: one deposit is enough to spend a payee's gas
again and again. So an hour's deposits, and parts, cost no more than is allowed, as gas
is priced when they are sent; what ends the channels costs about as much again.
"""

import logging
import time
from collections.abc import Awaitable, Callable

from agentpay.errors import GasLimitReached
from agentpay.evm.calls import Receipt
from agentpay.facilitator.gas import GasSpending
from agentpay.ports import Chain
from agentpay.types import Address

_log = logging.getLogger(__name__)


class DepositGas:
    """
    Counts what deposits cost one account. Each process counts for itself, and forgets
    at a restart, as `GasSpending` does.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        wei_per_hour: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without `wei_per_hour` there is no limit, and nothing is counted."""
        self._chain = chain
        self._limit = wei_per_hour
        most = wei_per_hour or 0
        self._spending = GasSpending(per_hour=most, per_payee_hour=most, clock=clock)
        self._warned = False

    async def check(self, account: Address, gas: int) -> None:
        """
        Whether a deposit could be paid for now, before anything is kept of it.

        Raises:
            GasLimitReached: Not in this hour.
            ChainUnreachable: The price of gas could not be read.
        """
        if self._limit is not None:
            self._check(account, await self._cost(account, gas), self._limit)

    async def send(
        self, account: Address, gas: int, send: Callable[[], Awaitable[Receipt]]
    ) -> Receipt:
        """
        Send a deposit that may use so much gas, within the hour's wei.

        Raises:
            GasLimitReached: They are used up; nothing was sent.
            ChainError, StoreUnavailable: See `Sender.send`.
        """
        if self._limit is None:
            return await send()
        wei = await self._cost(account, gas)
        self._check(account, wei, self._limit)
        spent = self._spending.reserve(account, wei)
        return await self._spending.pay(spent, send(), cost=_wei_of)

    async def _cost(self, account: Address, gas: int) -> int:
        standing = await self._chain.standing(account)
        return gas * (standing.base_fee + standing.tip)

    def _check(self, account: Address, wei: int, limit: int) -> None:
        allowed = self._spending.allows(account, wei)
        if not allowed and not self._warned:
            _log.warning("%s pays for no more deposits in this hour", account)
        self._warned = not allowed
        if not allowed:
            raise GasLimitReached(who="payers' deposits", limit=limit)


def _wei_of(receipt: Receipt) -> int:
    return receipt.gas_used * receipt.gas_price
