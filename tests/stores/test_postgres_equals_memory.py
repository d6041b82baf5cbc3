"""
PostgreSQL stores do what one memory store does: two of them, as of two processes.

Each step is taken by the one that did not take the last, so that whatever one of them
remembers was changed behind its back.
"""

from collections.abc import Coroutine
from types import TracebackType
from typing import ClassVar, Self

import pytest
from hypothesis import HealthCheck, settings

from agentpay.ports import PayeeStore, PayerStore
from agentpay.stores import PostgresStore, Store
from tests.postgres_server import PostgresServer
from tests.stores.store_machine import StoresAgree


class Alternating:
    """Two stores over one database, used in turns."""

    def __init__(self, first: PostgresStore, second: PostgresStore) -> None:
        self._stores = [first, second]

    def _next(self) -> PostgresStore:
        self._stores.reverse()
        return self._stores[0]

    @property
    def payee(self) -> PayeeStore:
        return self._next().payee

    @property
    def payer(self) -> PayerStore:
        return self._next().payer

    async def close(self) -> None:
        for store in self._stores:
            await store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class PostgresAgrees(StoresAgree):
    """Two PostgreSQL stores whose caches are often too small."""

    server: ClassVar[PostgresServer]

    def __init__(self) -> None:
        super().__init__()
        self.url = self.server.new_database()

    def opening(self, cached: int) -> Coroutine[object, object, Store]:
        return self._open(cached)

    async def _open(self, cached: int) -> Store:
        first, second = [
            await PostgresStore.open(self.url, cached=cached, grace_seconds=0)
            for _ in range(2)
        ]
        return Alternating(first, second)


@pytest.fixture(autouse=True)
def _server(postgres_server: PostgresServer) -> None:
    PostgresAgrees.server = postgres_server


TestPostgresAgrees = PostgresAgrees.TestCase
TestPostgresAgrees.settings = settings(
    max_examples=10,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
