"""
How deep money must be in the chain before all of it counts.

A chain can take back its last blocks, and then what was served for money in them was
served for nothing. So of a deposit that is not deep enough a bounded part is credited,
and a transfer of more than that is waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentpay.errors import ConfigurationError
from agentpay.evm.networks import BASE, BASE_SEPOLIA, LOCAL, Network
from agentpay.payee.arguments import units_of
from agentpay.ports import Chain
from agentpay.records import Settled
from agentpay.types import Hash32, Money

_CONFIRMATIONS = {LOCAL.chain: 0, BASE.chain: 10, BASE_SEPOLIA.chain: 10}
_CONFIRMATIONS_ELSEWHERE = 12
_DEEP_WITHIN_SECONDS = 60
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finality:
    """
    Money counts after so many blocks; of each channel, and of each transfer that is not
    served first, up to `above` counts at once.
    """

    confirmations: int
    above: Money = "$10"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalAmounts:
    """The same in base units of a token."""

    confirmations: int = 0
    free: int = 0


def finality_of(wanted: Finality | None, network: Network) -> FinalAmounts:
    """
    What was asked for, or what is usual on a network.

    Raises:
        ConfigurationError: The amount cannot be read, or a number is below 0.
    """
    usual = _CONFIRMATIONS.get(network.chain, _CONFIRMATIONS_ELSEWHERE)
    finality = wanted or Finality(confirmations=usual)
    free = units_of(finality.above, network.usdc.decimals, "finality, above")
    if min(finality.confirmations, free) < 0:
        raise ConfigurationError(f"finality: 0 or more, not {finality}")
    return FinalAmounts(confirmations=finality.confirmations, free=free)


class Credits:
    """Says how much of a balance may be spent yet."""

    def __init__(self, chain: Chain, finality: FinalAmounts) -> None:
        self._chain = chain
        self._finality = finality

    async def of(self, balance: int, read: Callable[[int], Awaitable[int]]) -> int:
        """
        What of `balance` is credited; `read` says what it was at a block of the past.

        Raises:
            ChainError: The chain could not be asked.
        """
        confirmations, free = self._finality.confirmations, self._finality.free
        if not confirmations or balance <= free:
            return balance
        deep = (await self._chain.head()).number - confirmations
        final = await read(deep) if deep >= 0 else 0
        return min(balance, final + free)


class Depth:
    """Waits until a transfer is so deep that it counts."""

    def __init__(self, chain: Chain, finality: FinalAmounts) -> None:
        self._chain = chain
        self._finality = finality

    async def reached(
        self, settled: Settled, found: Callable[[], Awaitable[Settled | None]]
    ) -> bool:
        """
        Return when it is; False: it is not in time, or the chain took it back.

        `found` looks for it on the chain, in whichever block it is by then.

        Raises:
            TransactionFailed: It was mined again, and reverted.
            ChainError: The chain could not be asked.
        """
        confirmations, free = self._finality.confirmations, self._finality.free
        if not confirmations or settled.amount <= free:
            return True
        transaction = Hash32(settled.transaction)
        loop = asyncio.get_running_loop()
        until = loop.time() + _DEEP_WITHIN_SECONDS
        while loop.time() < until:
            receipt = await self._chain.receipt(transaction)
            if receipt is None:
                return False
            head = await self._chain.head()
            if head.number - receipt.block >= confirmations:
                return await found() is not None
            await asyncio.sleep(_LOOK_SECONDS)
        return False
