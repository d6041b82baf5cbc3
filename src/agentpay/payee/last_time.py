"""
When something was last done for everybody: kept, so that no restart puts it off.
"""

from collections.abc import Callable

from agentpay.ports import PayeeStore


class LastTime:
    """One thing that a payee does every so often, whichever process is at it."""

    def __init__(
        self, name: str, *, store: PayeeStore, clock: Callable[[], float]
    ) -> None:
        self._name = name
        self._store = store
        self._clock = clock
        self._at = 0.0

    async def is_long_ago(self, seconds: float) -> bool:
        """
        Whether it was so many seconds ago; never, where nobody has done it yet: that
        counts from now on. After the clock was set back, it may have been for longer.

        Raises:
            StoreError: It is not known.
        """
        if not self._at:
            self._at = float(await self._store.read_cursor(self._name))
            if not self._at:
                await self.done()
        return not 0 <= self._clock() - self._at < seconds

    async def done(self) -> None:
        """
        It was done now.

        Raises:
            StoreError: A restart may do it again, and this process will not.
        """
        self._at = self._clock()
        await self._store.write_cursor(self._name, int(self._at))
