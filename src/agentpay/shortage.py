"""
What a payer lacks of what it signed, once that could not be put on the chain.

Asked only then: what was simulated and goes through costs no question more.
"""

from enum import Enum, auto
from typing import Final

from agentpay.evm.deposit import Deposit
from agentpay.evm.transfer import Transfer
from agentpay.onchain import read_words
from agentpay.ports import Chain


class Lack(Enum):
    """Why money does not move, where that is why."""

    ALLOWANCE = auto()
    """Permit2 may not move it, and nothing comes along that lets it."""
    BALANCE = auto()


ALLOWANCE_REQUIRED: Final = "permit2_allowance_required"
"""x402's code for it; behind the prefix of its scheme, where that has one."""
_DEPOSIT_CODES: Final = {
    Lack.ALLOWANCE: ALLOWANCE_REQUIRED,
    Lack.BALANCE: "insufficient_balance",
    None: "deposit_simulation_failed",
}


async def lack_of(chain: Chain, signed: Transfer | Deposit, amount: int) -> Lack | None:
    """
    What is missing of an amount, in base units; the allowance before the balance.

    Raises:
        ChainUnreachable: The token could not be read.
    """
    balance, *allowed = await read_words(chain, signed.funds_calls())
    if any(allowance < amount for allowance in allowed):
        return Lack.ALLOWANCE
    return Lack.BALANCE if balance < amount else None


async def deposit_code(chain: Chain, deposit: Deposit) -> str:
    """
    Why a deposit cannot be made, as a code of `batch-settlement` without its prefix.

    Raises:
        ChainUnreachable: The token could not be read.
    """
    return _DEPOSIT_CODES[await lack_of(chain, deposit, deposit.amount)]
