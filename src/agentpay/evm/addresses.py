"""
Where the contracts of the protocols live: the same address on every chain.

Source: x402 `specs/schemes/batch-settlement/scheme_batch_settlement_evm.md` and the
constants of the official SDKs. On Anvil our own contracts are placed there.
"""

from typing import Final

from agentpay.types import Address

BATCH_SETTLEMENT: Final = Address("0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003")
ERC3009_COLLECTOR: Final = Address("0x4020806089470a89826cB9fB1f4059150b550004")
