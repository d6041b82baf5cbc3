"""Which URL opens which store."""

from pathlib import Path

import pytest

from agentpay.errors import ConfigurationError
from agentpay.stores import MemoryStore, SqliteStore, open_store


async def test_memory_forgets() -> None:
    async with await open_store("memory:") as store:
        assert isinstance(store, MemoryStore)


async def test_three_slashes_are_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with await open_store("sqlite:///books.db") as store:
        assert isinstance(store, SqliteStore)

    assert [p.name for p in sorted(tmp_path.iterdir())] == [
        "books.db",
        "books.db.lock",
    ]


async def test_four_slashes_and_a_plain_path_are_the_same_file(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/books.db", f"{tmp_path}/books.db"):
        async with await open_store(url) as store:
            await store.payee.write_cursor("x", await store.payee.read_cursor("x") + 1)

    async with await open_store(str(tmp_path / "books.db")) as store:
        assert await store.payee.read_cursor("x") == 2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite:///",
        "sqlite://host/books.db",
        "sqlite:books.db",
        "sqlite:///:memory:",
        ":memory:",
        "sqlite:///books.db?mode=ro",
        "mysql://localhost/books",
        "books\0.db",
    ],
)
async def test_what_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        await open_store(url)
