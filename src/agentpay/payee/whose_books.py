"""
Whose books a store keeps: those of one payee, in however many processes it runs.

Only its own keys claim what is due in them, and one process follows the chain for all.
So another payee's channels there would be sold on, and never be claimed.
"""

from agentpay.errors import StoreInUse
from agentpay.evm.hashing import keccak
from agentpay.payee.offers import PayeeSettings
from agentpay.ports import PayeeStore

_NAME = "payee"
_BYTES = 7
"""What a cursor has room for."""


async def check_books(store: PayeeStore, settings: PayeeSettings) -> None:
    """
    Note whose books these are, if nobody has yet.

    Raises:
        StoreInUse: They are another payee's; nothing was changed.
        StoreError: It could not be read or noted.
    """
    ours = _mark_of(settings)
    if not await store.read_cursor(_NAME):
        await store.write_cursor(_NAME, ours)
    if await store.read_cursor(_NAME) == ours:
        return
    raise StoreInUse(
        f"this store keeps the books of another payee than the one of"
        f" {settings.asset.address} on chain {settings.asset.chain} to"
        f" {settings.pay_to}, with claims signed by {settings.authorizer}: start that"
        " one with it, and give this one a store of its own (a file or database)"
    )


def _mark_of(settings: PayeeSettings) -> int:
    """What the contract pays, on whose word: all that decides who can claim."""
    asset = settings.asset
    words = f"{asset.chain} {asset.address} {settings.pay_to} {settings.authorizer}"
    return int.from_bytes(keccak(words.encode())[:_BYTES], "big") + 1
