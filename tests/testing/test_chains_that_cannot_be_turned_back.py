"""A chain that cannot be turned back is begun anew, for the tests that follow."""

import pytest

from agentpay.errors import ChainError
from agentpay.testing.local_chain import LocalChain
from agentpay.testing.plugin import _turn_back


async def test_a_chain_that_cannot_be_turned_back_whole_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def revert(snapshot: str) -> None:
        raise ChainError(f"the local chain lacks blocks after {snapshot}")

    async with LocalChain() as chain:
        wallet = await chain.funded_wallet()
        snapshot = await chain.node.snapshot()
        with monkeypatch.context() as patched:
            patched.setattr(chain.node, "revert", revert)
            await _turn_back(chain, snapshot)

        assert await chain.balance(wallet.address) == 0
        await chain.fund(wallet.address)
        assert await chain.balance(wallet.address) > 0
