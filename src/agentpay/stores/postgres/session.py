"""
The one session that a process has with its database, made again when it is lost.

Everything of an owner happens in a session that holds the owner's advisory lock, which
PostgreSQL lets go when the session ends. So an owner whose lock is free is dead, and
who gets the lock back knows that nothing of the session before is still to come: what
became of a commit whose answer was lost can then be read.
"""

import asyncio
import contextlib
from typing import Final

from agentpay.errors import StoreUnavailable
from agentpay.stores.postgres import schema
from agentpay.stores.postgres.connection import (
    Connection,
    connect,
    lost,
    spares_the_session,
)
from agentpay.stores.postgres.schema import key_of

_SETTINGS: Final = {
    # A server notices within half a minute that a host is gone.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
}


class CommitInDoubt(Exception):
    """The connection was lost while it committed: batch `number` may be saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the connection was lost in commit {number}")
        self.number = number


class Session:
    """A connection that holds its owner's lock whenever it is used."""

    def __init__(
        self,
        url: str,
        *,
        owner: str,
        schema_name: str,
        timeout_seconds: float,
        grace_seconds: float,
    ) -> None:
        self.owner = owner
        self._url = url
        self._schema = schema_name
        self.timeout_seconds = timeout_seconds
        self._grace = grace_seconds
        self._connection: Connection | None = None
        self._process = 0
        self._leads: set[str] = set()
        self.saved = 0
        """The number of our last batch that is known to be saved."""

    async def ready(self) -> Connection:
        """
        A connection that may be used.

        Raises:
            StoreUnavailable: There is none now.
            StoreNewer: A newer version of this library changed the tables meanwhile.
            ConfigurationError: There never will be one.
        """
        if self._connection is not None:
            if not self._connection.is_closed():
                return self._connection
            self.drop()  # others think us dead: nothing is still ours, nor our lead
        patience = self.timeout_seconds
        connection = await connect(
            self._url,
            settings={
                **_SETTINGS,
                "application_name": f"agentpay {self.owner}",
                "search_path": self._schema,
                "idle_in_transaction_session_timeout": f"{int(patience * 1000)}",
            },
            timeout=patience,
        )
        try:
            await self._take_over(connection)
        except lost() as error:
            connection.terminate()
            raise StoreUnavailable(f"PostgreSQL is not ready: {error!r}") from error
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        return connection

    async def _take_over(self, connection: Connection) -> None:
        await connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        # Ours from before, which may not know yet that its connection is lost.
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid = $1 AND application_name = $2",
            self._process,
            f"agentpay {self.owner}",
        )
        await connection.execute("SELECT pg_advisory_lock($1)", key_of(self.owner))
        await schema.bring_up(
            connection, self._schema, wait_seconds=self.timeout_seconds
        )
        await connection.execute(
            "DELETE FROM owners"
            " WHERE owner <> $1 AND seen_at < now() - interval '30 days'",
            self.owner,  # which may ask, after a long outage, what was saved
        )
        saved = await connection.fetchval(
            "SELECT batch FROM owners WHERE owner = $1", self.owner
        )
        self.saved = saved or 0
        self._process = await connection.fetchval("SELECT pg_backend_pid()")
        self._leads.clear()

    def drop(self) -> None:
        """Give the connection up, and with it whatever transaction was open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def drop_unless_spared(self, error: BaseException) -> None:
        """The same, but for an error of a statement alone."""
        if not spares_the_session(error):
            self.drop()

    async def rollback(self) -> None:
        """Leave no transaction open."""
        if self._connection is None:
            return
        try:
            await self._connection.execute("ROLLBACK")
        except lost():
            self.drop()

    async def commit(self, connection: Connection) -> None:
        """
        Commit the open transaction as our next batch.

        Raises:
            CommitInDoubt: It may be saved or not; `ready` finds out (`saved`).
            PostgresError: The server says that it is not.
        """
        number = self.saved + 1
        try:
            await connection.execute(
                "INSERT INTO owners (owner, batch)"  # noqa: S608 - hex, and a number
                f" VALUES ('{self.owner}', {number}) ON CONFLICT (owner)"
                f" DO UPDATE SET batch = {number}, seen_at = now(); COMMIT"
            )
        except BaseException as error:
            if spares_the_session(error):
                raise
            self.drop()
            if isinstance(error, asyncio.CancelledError):
                raise  # for good: nobody stays to find out
            raise CommitInDoubt(number) from error
        self.saved = number

    async def living(
        self, connection: Connection, owners: frozenset[str]
    ) -> frozenset[str]:
        """
        Which other owners live; the dead stay dead until the transaction ends.

        Nobody is called dead while a server that has just started waits for owners to
        come back.
        """
        others = sorted(owners - {self.owner})
        if not others:
            return frozenset()
        rows = await connection.fetch(
            "SELECT owner FROM unnest($1::text[], $2::bigint[]) AS o (owner, key)"
            " WHERE NOT pg_try_advisory_xact_lock_shared(key)"
            " OR pg_postmaster_start_time()"
            " > clock_timestamp() - $3 * interval '1 second'",
            others,
            [key_of(owner) for owner in others],
            self._grace,
        )
        return frozenset(row[0] for row in rows)

    async def lead(self, connection: Connection, name: str) -> bool:
        """Take a name that one owner has at a time, until its session ends."""
        if name in self._leads:
            return True
        key = key_of(f"lead {self._schema} {name}")
        if await connection.fetchval("SELECT pg_try_advisory_lock($1)", key):
            self._leads.add(name)
        return name in self._leads

    async def close(self) -> None:
        """Let the owner end; what it left unfinished is for others from now on."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(*lost(), asyncio.CancelledError):
            await connection.execute("DELETE FROM owners WHERE owner = $1", self.owner)
            await connection.close(timeout=self.timeout_seconds)
            return
        connection.terminate()
