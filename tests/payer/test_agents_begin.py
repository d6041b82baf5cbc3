"""What an agent that cannot begin leaves behind: nothing."""

from pathlib import Path

import httpx
import pytest

from agentpay.errors import StoreError
from agentpay.testing.local_chain import LocalChain
from tests.http.world import an_agent


class Closing(httpx.AsyncBaseTransport):
    """Says whether it was closed."""

    closed = False

    async def aclose(self) -> None:
        self.closed = True


async def test_an_agent_whose_store_cannot_be_opened_closes_its_clients(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    inner = Closing()
    store = tmp_path / "agent.db"
    store.write_bytes(b"no database at all" * 100)
    agent = await an_agent(agentpay_shared_chain, inner, store=str(store))
    with pytest.raises(StoreError):
        await agent.__aenter__()

    assert agent.is_closed
    assert inner.closed
