"""
A chain of a test's own, for tests that take blocks back.

Anvil moves old states to the disk, and goes back to one of those with all balances and
without the code of any contract: after some 1,500 blocks, of which a shared chain has
more.
"""

from collections.abc import AsyncIterator

import pytest

from agentpay.testing.local_chain import LocalChain


@pytest.fixture
async def agentpay_chain() -> AsyncIterator[LocalChain]:
    """Instead of the one that is shared and turned back."""
    async with LocalChain() as chain:
        yield chain
