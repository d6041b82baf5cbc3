"""
What a node means when it refuses a transaction. Pure.

Nodes agree on no codes, only roughly on words: geth, reth, Nethermind, Erigon, Anvil.
"""

from enum import Enum, auto

from agentpay.chain.json_rpc import NodeRefused


class Refusal(Enum):
    """Why a node did not take a transaction."""

    KNOWN = auto()
    """It has this very transaction already."""
    NONCE_USED = auto()
    NONCE_AHEAD = auto()
    NONCE_PENDING = auto()
    """Another transaction with this nonce waits to be mined."""
    CHEAP = auto()
    """It offers less than blocks take now; for more it will be taken."""
    BUSY = auto()
    """The node failed, and may have taken it all the same."""
    FINAL = auto()
    """It will not be taken as it is."""


_WORDS = (
    ("already known", Refusal.KNOWN),
    ("already imported", Refusal.KNOWN),
    ("alreadyknown", Refusal.KNOWN),
    ("known transaction", Refusal.KNOWN),
    ("nonce too low", Refusal.NONCE_USED),
    ("nonce is too low", Refusal.NONCE_USED),
    ("oldnonce", Refusal.NONCE_USED),
    ("nonce too high", Refusal.NONCE_AHEAD),
    ("nonce gap", Refusal.NONCE_AHEAD),
    ("gapped-nonce", Refusal.NONCE_AHEAD),
    ("replacement", Refusal.NONCE_PENDING),
    ("could not replace", Refusal.NONCE_PENDING),
    ("less than block base fee", Refusal.CHEAP),
    ("transaction underpriced", Refusal.CHEAP),
    ("feetoolow", Refusal.CHEAP),
)
# Internal error, resource unavailable, limit exceeded, too many requests.
_BUSY_NUMBERS = frozenset({-32603, -32002, -32005, 429})


def refusal_of(answer: NodeRefused) -> Refusal:
    """Sort a node's refusal of `eth_sendRawTransaction`."""
    said = answer.message.lower()
    for words, meaning in _WORDS:
        if words in said:
            return meaning
    return Refusal.BUSY if answer.number in _BUSY_NUMBERS else Refusal.FINAL


def wants_more_gas(answer: NodeRefused, allowed: int) -> bool:
    """Whether a call was refused because it needs more gas than it was allowed."""
    said = answer.message.lower()
    # Of an account that is poor, geth says the same with what it could pay for.
    return (
        "out of gas" in said
        or "outofgas" in said.replace(" ", "")
        or f"exceeds allowance ({allowed})" in said
    )


def is_poor(answer: NodeRefused) -> bool:
    """Whether the account that sends cannot pay for it."""
    said = answer.message.lower()
    return "insufficient funds" in said or "exceeds allowance" in said


def is_about_the_call(refusal: NodeRefused) -> bool:
    """Whether a node refused what was asked, and not for reasons of its own."""
    return is_revert(refusal) or is_poor(refusal) or "gas" in refusal.message


def is_revert(refusal: NodeRefused) -> bool:
    """Whether a node refused a call because the contract reverts (geth says 3)."""
    said = refusal.message.lower()
    return bool(refusal.data) or refusal.number == 3 or "revert" in said
