"""Stores to test, each behind the same fixture: add one here and all promises apply."""

from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex

import pytest

from agentpay.ports import PayerStore
from agentpay.stores import MemoryStore, PostgresStore, SqliteStore, Store
from tests.postgres_server import PostgresServer

KINDS = ["memory", "sqlite", "sqlite-tiny-cache", "postgres", "postgres-tiny-cache"]
SHARED = ["sqlite-shared", "sqlite-shared-tiny-cache"]


async def _open(request: pytest.FixtureRequest, directory: Path) -> Store:
    kind = str(request.param)
    cached = 2 if "tiny" in kind else 1024
    if kind == "memory":
        return MemoryStore()
    if "shared" in kind:
        return await SqliteStore.open_shared(directory / "store.db", cached=cached)
    if kind.startswith("sqlite"):
        return await SqliteStore.open(directory / "store.db", cached=cached)
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return await PostgresStore.open(
        server.url("postgres"),
        schema=f"test_{token_hex(8)}",  # cheaper than a database
        cached=cached,
        grace_seconds=0,
    )


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with await _open(request, tmp_path) as opened:
        yield opened


@pytest.fixture(params=KINDS + SHARED)
async def payers(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[PayerStore]:
    """Those that a payer may use."""
    async with await _open(request, tmp_path) as opened:
        yield opened.payer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"
