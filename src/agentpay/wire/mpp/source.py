"""
`did:pkh`: how a credential names the account that pays.

Source: the did:pkh method; draft-evm-charge-00 and draft-evm-session-00, "Credential
Structure".
"""

import re
from functools import lru_cache

from agentpay.errors import MalformedMessage
from agentpay.evm.hashing import checksummed
from agentpay.types import Address, ChainId

_mixed_case = lru_cache(maxsize=4096)(checksummed)
_EVM = re.compile(r"did:pkh:eip155:([1-9][0-9]{0,15}):(0x[0-9a-fA-F]{40})", re.ASCII)


def format_source(chain: ChainId, account: Address) -> str:
    """Write who pays, in EIP-55's mixed case: mppx compares it as text."""
    return f"did:pkh:eip155:{chain}:{_mixed_case(account)}"


def parse_source(source: str) -> tuple[ChainId, Address]:
    """
    Read who is said to pay.

    Raises:
        MalformedMessage: It names no EVM account.
    """
    match = _EVM.fullmatch(source)
    if match is None:
        raise MalformedMessage(f"source names no EVM account: {source[:120]!r}")
    return ChainId(int(match[1])), Address(match[2])
