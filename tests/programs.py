"""Runs programs as their readers would: a provider, and an agent beside it."""

import asyncio
import runpy
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a free port; gives its URL."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not task.done():  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


def load(path: Path) -> dict[str, Any]:
    """Run a module and give its names."""
    return runpy.run_path(str(path))


async def run(path: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a program to its end, with arguments."""
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    await asyncio.to_thread(runpy.run_path, str(path), run_name="__main__")
