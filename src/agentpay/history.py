"""
Where in a chain's past something happened: logs by the time in which they must be.

What was signed can be used between two moments only, so that its log is found however
late one asks, in bounded parts, and nothing else is searched.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from agentpay.evm.calls import Block, Log
from agentpay.ports import Chain
from agentpay.types import Address, Hash32

BLOCKS_AT_ONCE: Final = 2000
"""What endpoints give the logs of in one answer."""
_PARTS_MAX: Final = 200
"""More than a day of the fastest chains."""


async def logs_between(
    chain: Chain,
    *,
    address: Address,
    topics: Sequence[Hash32 | None],
    earliest: int,
    latest: int,
    seconds_max: int,
) -> AsyncGenerator[Log]:
    """
    The events of a contract between two moments of the chain's clock, newest first.

    Of more than `seconds_max`, it is the last that are searched.

    Raises:
        ChainError: The chain could not be read.
    """
    head = await chain.head()
    last = head.number
    if head.timestamp > latest:
        last = await last_block_at(chain, latest, head=head)
    earliest = max(earliest, min(latest, head.timestamp) - seconds_max)
    for _ in range(_PARTS_MAX):
        first = max(0, last - BLOCKS_AT_ONCE + 1)
        logs = await chain.logs(
            address=address, topics=topics, first_block=first, last_block=last
        )
        for log in reversed(logs):
            yield log
        if first == 0 or (await chain.block(first)).timestamp < earliest:
            return
        last = first - 1


async def last_block_at(chain: Chain, moment: int, *, head: Block) -> int:
    """The last block that is not after a moment; 0 if all are."""
    low, high = 0, head.number
    while low < high:
        middle = (low + high + 1) // 2
        if (await chain.block(middle)).timestamp <= moment:
            low = middle
        else:
            high = middle - 1
    return low
