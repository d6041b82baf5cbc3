"""
Where the contracts of the protocols live: the same address on every chain.

Source: x402's specs of `exact`, `upto` and `batch-settlement` on EVM, the constants of
the official SDKs, and the pages of Permit2 and Multicall3. On Anvil our own contracts
are placed there.
"""

from typing import Final

from agentpay.types import Address

BATCH_SETTLEMENT: Final = Address("0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003")
ERC3009_COLLECTOR: Final = Address("0x4020806089470a89826cB9fB1f4059150b550004")
PERMIT2_COLLECTOR: Final = Address("0x4020425FAf3B746C082C2f942b4E5159887B0005")
EXACT_PROXY: Final = Address("0x402085c248EeA27D92E8b30b2C58ed07f9E20001")
UPTO_PROXY: Final = Address("0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002")
PERMIT2: Final = Address("0x000000000022D473030F116dDEE9F6B43aC78BA3")
MULTICALL3: Final = Address("0xcA11bde05977b3631167028862bE2a173976CA11")

CREATE2_DEPLOYER: Final = Address("0x4e59b44847b379578588920cA78FbF26c0B4956C")
"""Deploys what it is sent, at an address made of salt and bytes."""
SESSION_ESCROW: Final = Address("0xDe2809034A51e4313E15f507624B6474C83352DD")
"""Our escrow of MPP sessions, where that deployer puts it (`session_escrow_abi`)."""
