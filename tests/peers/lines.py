"""
What the peer's programs share: a line of JSON in, a line of JSON out, and a record of
every HTTP exchange that carried a payment.

They run in environments of their own, which have an official SDK and not us.
"""

import asyncio
import base64
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import uvicorn

Json = dict[str, Any]


def named(name: str, distribution: str) -> str:
    """An SDK with its version in this environment."""
    return f"{name} {version(distribution)}"


def read() -> Json | None:
    """The next line, or None at the end."""
    line = sys.stdin.readline()
    return json.loads(line) if line.strip() else None


def say(message: Json) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def note(status: int, payment: str | None, receipt: str | None) -> Json:
    """One exchange as this process saw it; headers are base64 JSON."""
    sent = json.loads(base64.b64decode(payment)) if payment else {}
    got = json.loads(base64.b64decode(receipt)) if receipt else {}
    return {"status": status, "payload": sent.get("payload", {}), "receipt": got}


def mpp_note(status: int, authorization: str | None, receipt: str | None) -> Json:
    """The same for MPP, whose headers are base64url JSON without padding."""
    sent = _unpadded(authorization.partition(" ")[2]) if authorization else {}
    got = _unpadded(receipt) if receipt else {}
    return {
        "status": status,
        "payload": sent.get("payload", {}),
        "receipt": {**got, "transaction": got.get("reference", "")},
        "bound": "digest" in sent.get("challenge", {}),
    }


def _unpadded(text: str) -> Json:
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


async def obey(act: Callable[[Json], Awaitable[Json]]) -> None:
    """Answer each line with one; an exception is an answer too."""
    loop = asyncio.get_running_loop()
    while (command := await loop.run_in_executor(None, read)) is not None:
        try:
            say(await act(command))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            say({"error": f"{type(error).__name__}: {error}"})


async def serve(app: Any, act: Callable[[Json], Awaitable[Json]], sdk: str) -> None:
    """Serve on a free port of loopback, say which, and obey until input ends."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if serving.done():
            await serving
            sys.exit("the server did not start")
        await asyncio.sleep(0.01)
    port = listener.getsockname()[1]
    say({"version": sdk, "url": f"http://127.0.0.1:{port}"})
    await obey(act)
    server.should_exit = True
    await serving
