"""
Which transfers may still buy: those that move now, or have since these books know them.

A signature is in the calldata of the transaction that used it, for everybody to present
again. To whoever did not take it then, as another service of the same wallet, or one
that lost its books, it is a payment for something else.
"""

from collections.abc import Iterable
from typing import Final

from agentpay.errors import ChainUnreachable, TransactionFailed
from agentpay.evm.transfer import Transfer
from agentpay.payee.movements import Movement
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.transfer_sale import SETTLE_SECONDS
from agentpay.ports import Chain
from agentpay.records import Settled
from agentpay.types import Hash32
from agentpay.wire.x402_transfers import EXPIRY_MARGIN_SECONDS, wrong_time

_CLOCKS_DIFFER_SECONDS: Final = 30
"""So far apart may the clocks of a payee and of its chain be."""


def wrong_moment(
    transfer: Transfer, settings: PayeeSettings, *, now: int, streams: bool
) -> str | None:
    """
    The code of a transfer that is not valid now, or not for the right time from now:
    what `streams` ends a while before it expires.
    """
    return wrong_time(
        transfer,
        now,
        seconds_min=SETTLE_SECONDS if streams else EXPIRY_MARGIN_SECONDS,
        seconds_max=settings.valid_seconds_max,
    )


async def moved_earlier(
    chain: Chain, movement: Movement, *, since: int, simulate: bool
) -> Settled | None:
    """
    What a transfer has moved already, since a moment of our clock: with nobody there to
    hear of it, or sent by somebody else. None, if it is still to move.

    Where whoever sends it does not, `simulate` it: most have not moved, and need no
    other question.

    Raises:
        TransactionFailed: It would not go through, or moved before, for something else.
        ChainError: The chain could not be asked.
    """
    if movement.done:
        return None
    if not simulate:
        return await _moved_since(chain, movement, since)
    try:
        await movement.check()
    except TransactionFailed:
        earlier = await _moved_since(chain, movement, since)
        if earlier is None:
            raise
        return earlier
    return None


async def _moved_since(chain: Chain, movement: Movement, since: int) -> Settled | None:
    found = await movement.found()
    if found is None:
        return None
    receipt = await chain.receipt(Hash32(found.transaction))
    if receipt is None:
        raise ChainUnreachable(f"{found.transaction} is in no block any more")
    block = await chain.block(receipt.block)
    if block.timestamp < since - _CLOCKS_DIFFER_SECONDS:
        raise TransactionFailed(
            f"transfer from {movement.payer}",
            reason="it moved before it was presented here, for something else",
        )
    return found


async def are_covered(together: Iterable[Movement], one: Movement) -> bool:
    """Whether a payer has enough for all of its transfers that are open here."""
    open_ = [movement for movement in together if movement.payer == one.payer]
    if len(open_) == 1:
        return True  # its own simulation says
    return sum(movement.maximum for movement in open_) <= await one.funds()
