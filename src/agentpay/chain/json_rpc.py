"""
Calls and batches of calls in JSON-RPC, and one endpoint that answers them.

web3 and aiohttp end here: nothing above sees their exceptions, and no error names more
of the endpoint than its scheme, host and port, since API keys live in the rest.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from agentpay.errors import ChainError, ChainUnreachable, ConfigurationError

if TYPE_CHECKING:
    from web3.types import RPCEndpoint

    from agentpay.chain.provider import KeepAliveProvider

BATCH_MAX: Final = 99
"""Calls in one round trip; whoever passes them on may add one of its own."""

Json = dict[str, Any] | list[Any] | str | int | float | None
"""Decoded JSON from an endpoint, of which nothing is known yet."""


class NodeRefused(ChainError):
    """The node answered a call with an error of its own."""

    code = "node_refused"

    def __init__(self, where: str, method: str, error: Json) -> None:
        fields = error if isinstance(error, dict) else {}
        self.message = _printable(str(fields.get("message", error)))
        number: Json = fields.get("code")
        self.number = number if isinstance(number, int) else 0
        self.data = _revert_data(fields.get("data"))
        super().__init__(f"{where} refused {method}: {self.message}")


class RequestNotSent(ChainUnreachable):
    """No connection could be made, so the request surely did not arrive."""

    code = "request_not_sent"


class Rpc(Protocol):
    """Whoever answers JSON-RPC: one endpoint, or several as one."""

    @property
    def where(self) -> str:
        """What errors call it; no part of it is secret."""
        ...

    async def batch(
        self, requests: Sequence[tuple[str, Sequence[object]]]
    ) -> list[Any | NodeRefused]:
        """
        Call up to `BATCH_MAX` methods in one round trip; results come in order.

        A call that the node refused has its `NodeRefused` in place of a result.

        Raises:
            ChainUnreachable: No usable answer; `RequestNotSent` if it surely did not
                arrive.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections; a later call opens new ones."""
        ...

    async def call(self, method: str, *params: object) -> Any:
        """
        Call one method and return its result as decoded JSON.

        Raises:
            ChainUnreachable: No usable answer; `RequestNotSent` if it surely did not
                arrive.
            NodeRefused: The node answered with an error.
        """
        [answer] = await self.batch([(method, params)])
        if isinstance(answer, NodeRefused):
            raise answer
        return answer

    @contextmanager
    def reading(self, what: str) -> Generator[None]:
        """
        Take the values of an answer apart.

        Raises:
            ChainUnreachable: They do not have the form that a node gives them.
        """
        try:
            yield
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ChainUnreachable(
                f"{self.where} answered {what} with something no node says ({error!r});"
                " use another endpoint"
            ) from error


class JsonRpc(Rpc):
    """One endpoint. Connects when first used; close it with `aclose`."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        """
        Raises:
            ConfigurationError: Not an http or https URL.
        """
        self._where = _without_secrets(url)
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._provider: KeepAliveProvider | None = None

    @property
    def where(self) -> str:
        return self._where

    async def aclose(self) -> None:
        """See `Rpc.aclose`."""
        provider, self._provider = self._provider, None
        if provider is not None:
            await provider.disconnect()

    async def batch(
        self, requests: Sequence[tuple[str, Sequence[object]]]
    ) -> list[Any | NodeRefused]:
        """See `Rpc.batch`."""
        if not requests:
            return []
        if len(requests) > BATCH_MAX + 1:
            raise ValueError(f"a batch has at most {BATCH_MAX + 1} calls")
        methods = [method for method, _ in requests]
        answers = await self._exchange([(_endpoint(m), list(p)) for m, p in requests])
        if isinstance(answers, dict) and "error" in answers:
            return [NodeRefused(self.where, m, answers["error"]) for m in methods]
        if not isinstance(answers, list) or len(answers) != len(requests):
            raise ChainUnreachable(
                f"{self.where} did not answer {len(requests)} JSON-RPC calls with as"
                " many results: is this the URL of a node?"
            )
        return [
            self._result(method, answer)
            for method, answer in zip(methods, answers, strict=True)
        ]

    def _result(self, method: str, answer: Json) -> Any | NodeRefused:
        if isinstance(answer, dict):
            if answer.get("error") is not None:
                return NodeRefused(self.where, method, answer["error"])
            if "result" in answer:
                return answer["result"]
        raise ChainUnreachable(f"{self.where} gave no JSON-RPC answer to {method}")

    async def _exchange(self, requests: "list[tuple[RPCEndpoint, Any]]") -> Json:
        import aiohttp  # loaded when first used, with web3: together they cost 1 s

        from agentpay.chain.provider import BadStatus

        provider = self._connected()
        try:
            if len(requests) == 1:
                return [await provider.make_request(*requests[0])]
            answers: Json = await provider.make_batch_request(requests)
            return answers  # noqa: TRY300 - nothing to say in an else
        except aiohttp.ClientConnectorError:
            failure: ChainUnreachable = RequestNotSent(
                f"cannot connect to {self.where}: is the node running?"
            )
        except TimeoutError:
            failure = ChainUnreachable(
                f"{self.where} did not answer within {self._timeout_seconds:g} s:"
                " try again, or use a faster endpoint"
            )
        except BadStatus as error:
            failure = ChainUnreachable(
                f"{self.where} answered {error}: try again, or check the URL and its"
                " access key"
            )
        except (aiohttp.ClientError, OSError) as error:
            failure = ChainUnreachable(
                f"the connection to {self.where} broke ({type(error).__name__}):"
                " try again"
            )
        except (ValueError, KeyError, TypeError):
            failure = ChainUnreachable(
                f"{self.where} did not answer in JSON-RPC: is this the URL of a node?"
            )
        # Raised outside of the handlers, and so without a cause: the text of aiohttp's
        # errors repeats the URL, which may carry a key.
        raise failure

    def _connected(self) -> "KeepAliveProvider":
        if self._provider is None:
            from agentpay.chain.provider import KeepAliveProvider

            self._provider = KeepAliveProvider(
                self._url, timeout_seconds=self._timeout_seconds
            )
        return self._provider


def _endpoint(method: str) -> "RPCEndpoint":
    from web3.types import RPCEndpoint

    return RPCEndpoint(method)


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    else:
        if parts.scheme in ("http", "https") and host:
            if port is None:
                port = 443 if parts.scheme == "https" else 80
            return f"{parts.scheme}://{host}:{port}"
    raise ConfigurationError("an RPC endpoint is an http:// or https:// URL")


def _revert_data(data: Json) -> bytes:
    if isinstance(data, dict):  # some nodes wrap it once more
        data = data.get("data")
    if not isinstance(data, str):
        return b""
    try:
        return bytes.fromhex(data[data.find("0x") + 2 :]) if "0x" in data else b""
    except ValueError:
        return b""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:300])
