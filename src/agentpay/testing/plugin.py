"""
pytest fixtures: a private chain, a funded wallet, a test dollar, one line each.

pytest loads this for everybody who has agentpay installed, so nothing is imported
before a fixture is used. The fixtures are synchronous, and serve tests of any kind and
any asyncio plugin in any mode.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from agentpay.signers.wallet import Wallet
    from agentpay.testing.local_chain import LocalChain
    from agentpay.types import Asset

T = TypeVar("T")


@pytest.fixture(scope="session")
def agentpay_shared_chain() -> "Iterator[LocalChain]":
    """One private chain per test process; what a test does to it stays."""
    from agentpay.testing.local_chain import LocalChain

    chain = LocalChain()
    _run(chain.start())
    yield chain
    _run(chain.stop())


@pytest.fixture
def agentpay_chain(agentpay_shared_chain: "LocalChain") -> "Iterator[LocalChain]":
    """The private chain, turned back after the test; or a new one, if that fails."""
    snapshot = _run(agentpay_shared_chain.node.snapshot())
    yield agentpay_shared_chain
    _run(_turn_back(agentpay_shared_chain, snapshot))


async def _turn_back(chain: "LocalChain", snapshot: str) -> None:
    from agentpay.errors import ChainError

    try:
        await chain.node.revert(snapshot)
    except ChainError:
        # Anvil has lost some of its blocks: no test after this one is to miss them.
        await chain.stop()
        await chain.start()


@pytest.fixture
def agentpay_wallet(agentpay_chain: "LocalChain") -> "Wallet":
    """A new wallet with 100 test dollars, and ether for gas."""
    return _run(agentpay_chain.funded_wallet())


@pytest.fixture
def agentpay_token(agentpay_chain: "LocalChain") -> "Asset":
    """The test dollar."""
    return agentpay_chain.usdc


def _run(work: Coroutine[None, None, T]) -> T:
    # In a thread of its own: an event loop may already run in this one.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, work).result()
