"""
What a budget holds for a transfer that the wallet sends itself, or signs whole.

Such a transaction is named by its nonce: of all that have it, the chain takes one. It
is kept as it was signed, so that the same one is sent again and never another. It does
not expire: it is held until it is mined, or its nonce is used by another one.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agentpay.core.budget import Hold, Released, Spent
from agentpay.errors import TransactionFailed
from agentpay.evm.calls import Receipt
from agentpay.evm.eip1559 import SignedCall, read_signed_call
from agentpay.evm.plain_transfer import PlainTransfer, read_plain_transfer
from agentpay.onchain import is_void
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.policy import scale
from agentpay.ports import Chain
from agentpay.types import Address, Asset, ChainId
from agentpay.wire.headers import JsonObject

OWN: Final = "transaction "
"""How the names of such holds begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTransfer:
    """One of them, as its hold tells. Every one is signed."""

    hold: Hold
    asset: Asset
    way: str
    """The credential type that it is presented by."""
    signed: SignedCall

    @property
    def transfer(self) -> PlainTransfer:
        """What it pays, to whom."""
        return read_plain_transfer(self.signed.call.to, self.signed.call.data)


def hold_id(chain: ChainId, account: Address, nonce: int) -> str:
    """What a transaction's hold is called."""
    return f"{OWN}{chain}:{account}:{nonce}"


def own_detail(asset: Asset, way: str, signed: SignedCall | None) -> str:
    """
    All that is needed to send it again, or to look it up; None is about to be signed.
    """
    detail: JsonObject = {
        "chain": asset.chain,
        "token": str(asset.address),
        "way": way,
        "raw": "" if signed is None else signed.raw.hex(),
    }
    return json.dumps(detail)


def read_own(hold: Hold, assets: Iterable[Asset]) -> OwnTransfer | None:
    """The transfer of a hold; None if it is not signed, or of none of our assets."""
    if not hold.id.startswith(OWN) or is_unsigned(hold):
        return None
    detail = json.loads(hold.detail)
    place = ChainId(detail["chain"]), Address(detail["token"])
    for asset in assets:
        if (asset.chain, asset.address) == place:
            signed = read_signed_call(bytes.fromhex(detail["raw"]))
            return OwnTransfer(hold=hold, asset=asset, way=detail["way"], signed=signed)
    return None


def is_unsigned(hold: Hold) -> bool:
    """
    Whether what it is for has not left us.

    It may be freed at any time: what is signed is reserved once more before it leaves.
    """
    return not json.loads(hold.detail)["raw"]


async def find_mined(chain: Chain, signed: SignedCall) -> Receipt | None:
    """
    Its receipt, if it was mined and did what it says.

    Raises:
        ChainError: The chain could not be asked.
    """
    try:
        return await chain.receipt(signed.hash)
    except TransactionFailed:
        return None


async def free(own: OwnTransfer, ledger: PayerLedger) -> None:
    """It moves nothing, ever."""
    await ledger.move(own.asset.decimals, Released(id=own.hold.id))
    await ledger.resolved(own.hold.id, own.hold.host, moved=False)


async def book_spent(own: OwnTransfer, ledger: PayerLedger) -> None:
    """It was mined, and buys nothing more."""
    amount = scale(own.transfer.amount, own.asset.decimals)
    spent = Spent(id=own.hold.id, amount=amount)
    await ledger.move(own.asset.decimals, spent)


async def resolve_own(
    own: OwnTransfer, *, chain: Chain, ledger: PayerLedger, presents: bool
) -> bool:
    """
    Ask the chain what became of it; False while it may still move money, or buy.

    `presents` says that it may still be presented: then it stays as it is.

    Raises:
        ChainError: The chain could not be asked.
    """
    if await find_mined(chain, own.signed) is not None:
        if presents:
            return False
        await book_spent(own, ledger)
        await ledger.resolved(own.hold.id, own.hold.host, moved=True)
        return True
    if await is_void(chain, own.signed):
        await free(own, ledger)
        return True
    return False
