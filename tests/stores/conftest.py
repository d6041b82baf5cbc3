"""Stores to test, each behind the same fixture: add one here and all promises apply."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentpay.stores import MemoryStore, SqliteStore, Store


async def _open(kind: str, directory: Path) -> Store:
    if kind == "memory":
        return MemoryStore()
    cached = 2 if kind == "sqlite-tiny-cache" else 1024
    return await SqliteStore.open(directory / "store.db", cached=cached)


@pytest.fixture(params=["memory", "sqlite", "sqlite-tiny-cache"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with await _open(str(request.param), tmp_path) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"
