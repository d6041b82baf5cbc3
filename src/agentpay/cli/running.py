"""How every command runs, and how it says what went wrong."""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer
from rich.console import Console

from agentpay.agent import HTTP_ERRORS
from agentpay.errors import AgentPayError, ConfigurationError

T = TypeVar("T")

err = Console(stderr=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command; what we raise on purpose is a message and a status of 1."""
    try:
        return asyncio.run(work)
    except AgentPayError as error:
        err.print(f"{error.code}: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except HTTP_ERRORS as error:
        err.print(f"http_error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def listen(host: str, port: int) -> socket.socket:
    """
    Take a place to serve at.

    Raises:
        ConfigurationError: It is somebody's, or there is no such place.
    """
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from error
