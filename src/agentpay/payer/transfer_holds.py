"""
What a budget holds for a signed transfer, and what the chain says became of it.
"""

import asyncio
import json
from collections.abc import Iterable

from agentpay.core import budget as budgets
from agentpay.core.budget import Hold, Moved, Released, Reserved, Spent
from agentpay.evm.calls import Block
from agentpay.evm.charge_permit import ChargePermit
from agentpay.evm.transfer import Transfer
from agentpay.onchain import find_transfer, is_used
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.policy import scale
from agentpay.ports import Chain
from agentpay.types import MONEY_DECIMALS, Address, Asset, ChainId
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.kept import kept_charge, read_kept_charge
from agentpay.wire.x402_transfers import read_unsigned, transfer_payload

ANSWER_KEPT_SECONDS = 3600
"""So long after it expired a payment may still be told its answer, and no longer."""


async def reserve(
    ledger: PayerLedger, hold: Hold, *, decimals: int, contested: bool = False
) -> None:
    """
    Set money aside for one transfer, durably.

    Raises:
        BudgetExceeded: It is above the budget.
        HostQuarantined: The host took several payments and delivered nothing.
        NonceBusy: It is contested, and there is one.
    """
    budgets.check_request(ledger.limits(decimals), hold.amount)
    try:
        await ledger.move(decimals, Reserved(hold=hold, contested=contested))
    except asyncio.CancelledError:  # nobody is there to sign for it
        await ledger.move(decimals, Released(id=hold.id))
        raise


def detail_of(unsigned: Transfer, words: JsonObject) -> str:
    """
    All that is needed to ask a chain about it, and to sign and present it once more
    (`words` are those of its credential); never the signature.
    """
    detail: JsonObject = {
        "chain": unsigned.asset.chain,
        "token": str(unsigned.asset.address),
        "words": words,
    }
    if isinstance(unsigned, ChargePermit):
        detail["charge"] = kept_charge(unsigned)
    else:
        detail["payload"] = transfer_payload(unsigned)
    return json.dumps(detail)


def words_of(hold: Hold) -> JsonObject:
    """What its credential says beside its transfer."""
    words: JsonObject = json.loads(hold.detail)["words"]
    return words


def transfer_of(hold: Hold, assets: Iterable[Asset]) -> Transfer | None:
    """The transfer of a hold, without its signature; None if of none of our assets."""
    detail = json.loads(hold.detail)
    place = ChainId(detail["chain"]), Address(detail["token"])
    for asset in assets:
        if (asset.chain, asset.address) == place:
            if "charge" in detail:
                return read_kept_charge(detail["charge"], asset)
            return read_unsigned(detail["payload"], asset)
    return None


async def resolve_hold(
    hold: Hold, transfer: Transfer, *, chain: Chain, ledger: PayerLedger
) -> bool:
    """
    Ask the chain what became of a transfer; False while it may still move money.

    Where that bought no answer yet, it is known for as long as one may be kept.

    Raises:
        ChainError: The chain could not be asked.
    """
    if not hold.amount:
        if ledger.now() > hold.valid_before + ANSWER_KEPT_SECONDS:
            await ledger.move(MONEY_DECIMALS, Released(id=hold.id))
        return True
    head = await chain.head()
    if await is_used(chain, transfer, block=head.number):
        found = await find_transfer(chain, transfer)
        moved = transfer.moved(found.logs) if found else transfer.maximum
        decimals = transfer.asset.decimals
        booked = Moved if hold.request else Spent
        amount = scale(moved, decimals)
        await ledger.move(decimals, booked(id=hold.id, amount=amount))
        await ledger.resolved(hold.id, hold.host, moved=True)
        return True
    return await _free_if_over(hold, head, ledger)


async def free_unused(
    hold: Hold, transfer: Transfer, *, chain: Chain, ledger: PayerLedger
) -> bool:
    """
    Free what has expired and was never used; False if that is not known.

    Raises:
        ChainError: The chain could not be asked.
    """
    head = await chain.head()
    if await is_used(chain, transfer, block=head.number):
        return False
    return await _free_if_over(hold, head, ledger)


async def _free_if_over(hold: Hold, head: Block, ledger: PayerLedger) -> bool:
    """Whether what is not used by that block cannot be used any more."""
    if head.timestamp <= hold.valid_before:
        return False
    await ledger.move(MONEY_DECIMALS, Released(id=hold.id))
    await ledger.resolved(hold.id, hold.host, moved=False)
    return True
