"""Fixtures that several folders of tests share."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import settings

from agentpay.evm.networks import LOCAL, NETWORKS
from agentpay.testing.local_chain import LocalChain
from tests.http.ways import WAYS, Chosen
from tests.postgres_server import PostgresServer

# An example that is slow because the machine is busy has found nothing.
settings.register_profile("agentpay", deadline=None)
settings.load_profile("agentpay")


@pytest.fixture
def local_network(
    agentpay_chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> LocalChain:
    """The test's own chain is the network called `local`."""
    here = replace(LOCAL, rpc_url=agentpay_chain.rpc_url)
    monkeypatch.setitem(NETWORKS, "local", here)
    return agentpay_chain


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL per test process."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """A database of the test's own, with nothing in it."""
    return postgres_server.new_database()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test of a module that uses it runs once for each way to pay."""
    Chosen.name = request.param
    yield request.param
    Chosen.name = "httpx"
