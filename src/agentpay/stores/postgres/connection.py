"""
The border to asyncpg: connections with our types of columns, its errors in our words.

Amounts are `int` here and NUMERIC there. Text may hold NUL, which PostgreSQL's may not,
so that it is escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

from agentpay.errors import ConfigurationError, StoreUnavailable
from agentpay.stores.rows.tables import Column, Columns

Row = Sequence[Any]
"""What PostgreSQL returns, whose columns have the types that the schema says."""

TYPES: Final = {
    "bytes": "bytea",
    "amount": "numeric",
    "integer": "bigint",
    "text": "text",
    "flag": "boolean",
}


class Connection(Protocol):
    """What is used of asyncpg's connection, which has no types of its own."""

    async def execute(self, query: str, *args: object) -> str: ...

    async def fetch(self, query: str, *args: object) -> list[Row]: ...

    async def fetchval(self, query: str, *args: object) -> Any: ...

    async def set_type_codec(self, typename: str, **codec: object) -> None: ...

    def is_closed(self) -> bool: ...

    def terminate(self) -> None: ...

    async def close(self, *, timeout: float) -> None: ...


async def connect(
    url: str, *, settings: Mapping[str, str], timeout: float
) -> Connection:
    """
    Open a connection; no statement on it may take longer than `timeout`.

    Raises:
        ConfigurationError: asyncpg is not installed, or the URL is none of PostgreSQL.
        StoreUnavailable: There is no server, or it does not let us in.
    """
    try:
        import asyncpg
    except ImportError as error:
        raise ConfigurationError(
            "PostgreSQL needs asyncpg: pip install 'agentpay-sdk[postgres]'"
        ) from error
    failures: tuple[type[Exception], ...] = lost()
    untyped: Any = asyncpg
    try:
        opened = await untyped.connect(
            url,
            timeout=timeout,
            command_timeout=timeout,
            server_settings=dict(settings),
        )
        connection = cast("Connection", opened)
        await connection.set_type_codec(
            "numeric", schema="pg_catalog", encoder=str, decoder=int, format="text"
        )
    except ValueError:  # which may quote the URL, and the password in it
        raise ConfigurationError(
            "the URL of the store is none that PostgreSQL's clients read:"
            " postgresql://user:password@host:port/database"
        ) from None
    except failures as error:
        raise StoreUnavailable(f"PostgreSQL cannot be reached: {error!r}") from error
    return connection


def lost() -> tuple[type[Exception], ...]:
    """What is raised where a server did not do as it was asked, or did not answer."""
    import asyncpg

    return (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
        TimeoutError,
    )


def may_be_repeated(error: Exception) -> bool:
    """Whether the server asks for the whole transaction again."""
    import asyncpg

    return isinstance(error, asyncpg.SerializationError | asyncpg.DeadlockDetectedError)


_OF_A_STATEMENT: Final = frozenset({"22", "23", "40", "53", "54", "55", "P0"})
"""
Classes of SQLSTATE: data, constraints, rollbacks, resources, limits, locks, triggers.
"""
_CANCELED: Final = "57014"
_UNKNOWN: Final = "40003"
"""Whether it was completed is unknown: after a commit, only a new session can say."""


def spares_the_session(error: BaseException) -> bool:
    """
    Whether only a statement failed: its transaction is undone, and its session goes on.

    Of anything else a new session makes the best: the server may be another by then.
    """
    import asyncpg

    if isinstance(error, asyncpg.InterfaceError):
        return isinstance(error, ValueError)  # an argument that no column takes
    if not isinstance(error, asyncpg.PostgresError):
        return False
    code: str = getattr(error, "sqlstate", None) or ""
    severity: str = getattr(error, "severity_en", None) or ""
    of_a_statement = code[:2] in _OF_A_STATEMENT or code == _CANCELED
    return of_a_statement and code != _UNKNOWN and severity == "ERROR"


def to_column(value: Column, kind: str) -> Column:
    """A value as PostgreSQL takes it."""
    if kind == "text" and isinstance(value, str) and ("\0" in value or "\\" in value):
        return value.replace("\\", "\\\\").replace("\0", "\\0")
    return bool(value) if kind == "flag" else value


def from_columns(row: Iterable[Column], kinds: Sequence[str]) -> Columns:
    """A row of PostgreSQL's as it was written."""
    return tuple(
        _unescaped(value) if kind == "text" and isinstance(value, str) else value
        for value, kind in zip(row, kinds, strict=True)
    )


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    parts = text.split("\\\\")
    return "\\".join(part.replace("\\0", "\0") for part in parts)
