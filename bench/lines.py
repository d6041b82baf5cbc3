"""
What the benchmark's programs share: a line of JSON in, a line of JSON out.

It runs in our environment and in the peer's, so that it imports neither.
"""

import asyncio
import gc
import json
import os
import socket
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import uvicorn

Json = dict[str, Any]
Act = Callable[[Json], Awaitable[Json]]
_PACKAGES = (
    *("agentpay-sdk", "x402", "coincurve", "eth-account", "fastapi", "starlette"),
    *("uvicorn", "uvloop", "httptools", "httpx", "httpx2", "aiohttp"),
    *("pydantic", "web3", "asyncpg"),
)


def read() -> Json:
    """The next line; empty at the end."""
    line = sys.stdin.readline()
    message: Json = json.loads(line) if line.strip() else {}
    return message


def say(message: Json) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def run(main: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it is installed, as uvicorn does by itself."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def versions() -> dict[str, str]:
    """What is installed here of what matters."""
    found = {"python": sys.version.split()[0], "sqlite": sqlite3.sqlite_version}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


async def obey(act: Act, **facts: Any) -> None:
    """Say who we are, then answer each line with one, until there are no more."""
    say({"pid": os.getpid(), "versions": versions(), **facts})
    loop = asyncio.get_running_loop()
    while command := await loop.run_in_executor(None, read):
        try:
            say(await act(command))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            say({"error": f"{type(error).__name__}: {error}"})


async def serve(app: Any, act: Act, *, inherited: int = -1, **facts: Any) -> None:
    """
    Serve on loopback, say where, and obey until input ends.

    On a free port, or on the socket that was inherited, which several may serve.
    """
    listener = listening() if inherited < 0 else socket.socket(fileno=inherited)
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    # What is there for good is not looked at again by the garbage collector.
    gc.collect()
    gc.freeze()
    await obey(act, url=url, **facts)
    server.should_exit = True
    await serving


def listening() -> socket.socket:
    """A free port of loopback."""
    # With its protocol named, asyncio turns off Nagle's delay of 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener
