"""
One process per database file, or several that share it, by a lock that the kernel drops
when its holder dies.

The lock is on a file of its own, which stays: removing it would let two processes hold
"the" lock, each on another file. Its text is the holder's process id, for people only.
"""

import os
import sys
from pathlib import Path

from agentpay.errors import StoreInUse, StoreUnavailable

if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # beyond the text, which others may then still read

    _SHARERS = 64

    def _try_lock(file: int, *, shared: bool) -> None:
        """All of a few bytes, or any one of them."""
        for at in range(_SHARERS if shared else 1):
            os.lseek(file, _FAR + at, os.SEEK_SET)
            try:
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1 if shared else _SHARERS)
            except OSError:
                continue
            os.lseek(file, 0, os.SEEK_SET)
            return
        os.lseek(file, 0, os.SEEK_SET)
        raise OSError("it is locked")
else:
    import fcntl

    def _try_lock(file: int, *, shared: bool) -> None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind | fcntl.LOCK_NB)


def lock(database: Path, *, shared: bool = False) -> int:
    """
    Hold a database file, alone or with others; close the descriptor to let go.

    Raises:
        StoreInUse: Another process holds it, or this one does already.
        StoreUnavailable: The lock file cannot be made.
    """
    path = f"{database}.lock"
    try:
        file = os.open(
            path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600
        )
    except OSError as error:
        raise StoreUnavailable(f"cannot open the lock file {path}: {error}") from error
    try:
        _try_lock(file, shared=shared)
    except OSError as error:
        holder = os.read(file, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(file)
        raise StoreInUse(
            f"{database} is in use by process {holder}, and a file serves one process"
            " (or agents that share it): stop that process, run a single worker, give"
            " each its own file, or use PostgreSQL"
        ) from error
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    return file
