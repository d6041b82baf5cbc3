"""
What a budget holds for a signed transfer, and what the chain says became of it.
"""

import json
from collections.abc import Iterable

from agentpay.core.budget import Hold, Released, Spent
from agentpay.evm.charge_permit import ChargePermit
from agentpay.evm.transfer import Transfer
from agentpay.onchain import find_transfer, is_used
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.policy import scale
from agentpay.ports import Chain
from agentpay.types import Address, Asset, ChainId
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.kept import kept_charge, read_kept_charge
from agentpay.wire.x402_transfers import read_unsigned, transfer_payload


def detail_of(unsigned: Transfer) -> str:
    """All that is needed to ask a chain about it; never the signature."""
    detail: JsonObject = {
        "chain": unsigned.asset.chain,
        "token": str(unsigned.asset.address),
    }
    if isinstance(unsigned, ChargePermit):
        detail["charge"] = kept_charge(unsigned)
    else:
        detail["payload"] = transfer_payload(unsigned)
    return json.dumps(detail)


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

    Raises:
        ChainError: The chain could not be asked.
    """
    decimals = transfer.asset.decimals
    head = await chain.head()
    if await is_used(chain, transfer, block=head.number):
        found = await find_transfer(chain, transfer)
        moved = transfer.moved(found.logs) if found else transfer.maximum
        spent = Spent(id=hold.id, amount=scale(moved, decimals))
        await ledger.move(decimals, spent)
        await ledger.resolved(hold, moved=True)
        return True
    if head.timestamp > hold.valid_before:
        await ledger.move(decimals, Released(id=hold.id))
        await ledger.resolved(hold, moved=False)
        return True
    return False
