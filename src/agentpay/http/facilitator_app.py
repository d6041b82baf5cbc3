"""
A facilitator behind HTTP: an ASGI application without a framework.

Source: x402 `specs/x402-specification-v2.md` section 7. A decision is 200 whatever it
is; 400 is a body that cannot be read, 401 a caller without a token, 408 and 413 a body
that is too late or too large, 429 gas that is used up, 503 what cannot be known now.
Each body is one of x402's answers, so that whoever only reads bodies understands it.
"""

import asyncio
import hmac
import json
import logging
from collections.abc import Collection
from dataclasses import dataclass

from agentpay.errors import (
    AgentPayError,
    ConfigurationError,
    GasLimitReached,
    MalformedMessage,
)
from agentpay.facilitator.host import FacilitatorHost
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.wire import x402_facilitator as wire
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject

_log = logging.getLogger(__name__)

_METHODS = {"/supported": "GET", "/verify": "POST", "/settle": "POST"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    body: JsonObject


class _TooLarge(Exception):
    """A body is larger than we read."""


class FacilitatorApp:
    """Serves one `FacilitatorHost`, which starts with it, or with the first request."""

    def __init__(
        self,
        host: FacilitatorHost,
        *,
        tokens: Collection[str] = (),
        requests_max: int = 256,
        body_within_seconds: float = 10,
    ) -> None:
        """
        With `tokens`, `/verify` and `/settle` need one of them as a bearer token.

        Raises:
            ConfigurationError: It signs for payees, and anybody may ask.
        """
        if host.authorizer is not None and not tokens:
            raise ConfigurationError(
                "whoever may ask an authorizer to refund takes a payee's money away:"
                " require a token"
            )
        self._host = host
        self._tokens = tuple(token.encode() for token in tokens)
        self._requests_max = requests_max
        self._body_within_seconds = body_within_seconds
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await _send(send, await self._answer(scope, receive))
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._host.start()
                except AgentPayError as error:
                    # A node that is down comes back; whoever asks meanwhile is told.
                    _log.warning("the facilitator is not up yet: %s", error)
            else:
                await self._host.stop()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _answer(self, scope: Scope, receive: Receive) -> _Answer:
        path = _path(scope)
        method = _METHODS.get(path)
        if method is None:
            return _error(404, "not_found", f"there are {', '.join(_METHODS)}")
        if scope["method"] != method:
            return _error(405, "method_not_allowed", f"{path} is for {method}")
        if path != "/supported" and not self._may_ask(scope):
            return self._nothing(path, 401, "unauthorized", "a bearer token is needed")
        if self._requests >= self._requests_max:
            return self._nothing(path, 503, "busy", "too many requests: try again")
        self._requests += 1
        try:
            return await self._decide(path, receive)
        finally:
            self._requests -= 1

    def _may_ask(self, scope: Scope) -> bool:
        if not self._tokens:
            return True
        given = [v for n, v in scope["headers"] if n == b"authorization"]
        kind, _, token = given[0].partition(b" ") if len(given) == 1 else (b"",) * 3
        known = [hmac.compare_digest(token, ours) for ours in self._tokens]
        return kind.lower() == b"bearer" and any(known)

    async def _decide(self, path: str, receive: Receive) -> _Answer:
        settling = path == "/settle"
        try:
            service = await self._host.start()
            if path == "/supported":
                return _Answer(status=200, body=service.supported())
            async with asyncio.timeout(self._body_within_seconds):
                body = await _body(receive)
            request = wire.parse_request(body)
            if settling:
                return _Answer(status=200, body=await service.settle(request))
            return _Answer(status=200, body=await service.verify(request))
        except _TooLarge:
            most = f"a body has {wire.BODY_BYTES_MAX} bytes at most"
            return self._nothing(path, 413, wire.INVALID_PAYLOAD, most)
        except TimeoutError:
            late = f"it did not arrive within {self._body_within_seconds:g} s"
            return self._nothing(path, 408, wire.INVALID_PAYLOAD, late)
        except MalformedMessage as error:
            version = isinstance(error, wire.WrongVersion)
            code = error.code if version else wire.INVALID_PAYLOAD
            return self._nothing(path, 400, code, str(error))
        except GasLimitReached as error:
            return self._nothing(path, 429, error.code, str(error))
        except AgentPayError as error:
            _log.warning("%s: %s", path, error)
            return self._nothing(path, 503, error.code, "it cannot be known now")
        except Exception:  # noqa: BLE001
            # A bug of ours is no reason for a payee to see anything but x402.
            _log.exception("%s failed", path)
            code = "unexpected_settle_error" if settling else "unexpected_verify_error"
            return self._nothing(path, 503, code, "it cannot be known now")

    def _nothing(self, path: str, status: int, code: str, message: str) -> _Answer:
        """An answer in the words of x402: not settled, not valid, or not supported."""
        if path == "/settle":
            body = write.receipt(
                success=False,
                chain=self._host.terms.chain,
                error=code,
                message=message,
            )
            return _Answer(status=status, body=body)
        if path == "/verify":
            return _Answer(status=status, body=wire.invalid(code, message))
        return _error(status, code, message)


def _path(scope: Scope) -> str:
    """Below where it is mounted; not all who mount it say that in the path as well."""
    path = str(scope["path"])
    below = path.removeprefix(str(scope.get("root_path", "")))
    return path if path in _METHODS else below


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise MalformedMessage("the body is incomplete")
        body += message.get("body", b"")
        if len(body) > wire.BODY_BYTES_MAX:
            raise _TooLarge
        if not message.get("more_body"):
            return bytes(body)


def _error(status: int, code: str, message: str) -> _Answer:
    return _Answer(status=status, body={"error": code, "message": message})


async def _send(send: Send, answer: _Answer) -> None:
    body = json.dumps(answer.body, separators=(",", ":")).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if answer.status in (429, 503):
        headers.append((b"retry-after", b"1"))
    if answer.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    start = {"type": "http.response.start", "status": answer.status}
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": body})
