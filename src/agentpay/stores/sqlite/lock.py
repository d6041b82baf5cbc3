"""
One process per database file, by a lock that the kernel drops when its holder dies.

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

    def _try_lock(file: int) -> None:
        os.lseek(file, _FAR, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
else:
    import fcntl

    def _try_lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock(database: Path) -> int:
    """
    Hold a database file; close the returned descriptor to let go.

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
        _try_lock(file)
    except OSError as error:
        holder = os.read(file, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(file)
        raise StoreInUse(
            f"{database} is in use by process {holder}, and a file serves one process:"
            " stop that process, run a single worker, or give each its own file"
        ) from error
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    return file
