"""
Stores: what a payer and a payee remember, in memory or durably.

`open_store` reads a URL; whoever knows which store it wants names its class.
"""

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from agentpay.errors import ConfigurationError
from agentpay.ports import PayeeStore, PayerStore
from agentpay.stores.memory import MemoryPayeeStore, MemoryPayerStore, MemoryStore
from agentpay.stores.postgres import PostgresStore
from agentpay.stores.sqlite import SqliteStore

__all__ = [
    "MemoryPayeeStore",
    "MemoryPayerStore",
    "MemoryStore",
    "PostgresStore",
    "SqliteStore",
    "Store",
    "open_store",
]

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")


class Store(Protocol):
    """Both roles over one place to remember things."""

    @property
    def payee(self) -> PayeeStore: ...

    @property
    def payer(self) -> PayerStore: ...

    async def close(self) -> None:
        """Save what is queued and let go; closing a role closes both."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


async def open_store(url: str, *, shared: bool = False, make: bool = True) -> Store:
    """
    Open `memory:`, `sqlite:///relative.db`, `sqlite:////absolute.db`, a plain path, or
    `postgresql://user:password@host/database`. With `shared`, a file is opened for a
    payer beside others; PostgreSQL always is. Without `make`, a file has to be there.

    Raises:
        ConfigurationError: Not one of these, or its file or directory does not exist.
        StoreError: It cannot be opened; see `SqliteStore.open`, `PostgresStore.open`.
    """
    if url == "memory:":
        return MemoryStore()
    if url.startswith(_POSTGRES):
        return await PostgresStore.open(url)
    path = _path(url, make=make)
    if shared:
        return await SqliteStore.open_shared(path)
    return await SqliteStore.open(path)


def _path(url: str, *, make: bool) -> str:
    path = url.removeprefix(_SQLITE)
    is_url = "://" in path or path.startswith("sqlite:")
    if not path or is_url or ":memory:" in path or "\0" in path:
        raise ConfigurationError(
            f"cannot open the store {url!r}: it is 'memory:', 'sqlite:///relative.db',"
            " 'sqlite:////absolute.db', the path of a file or 'postgresql://...'"
        )
    if path != url and "?" in path:
        raise ConfigurationError(f"the store {url!r} has options, and there are none")
    if not make and not Path(path).exists():
        raise ConfigurationError(f"there is no store {path}: is that its name?")
    return path
