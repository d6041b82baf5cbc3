"""An endpoint whose failures somebody is told of, as well as whoever asked."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from agentpay.chain.json_rpc import NodeRefused, Rpc
from agentpay.chain.refusals import is_about_the_call
from agentpay.errors import ChainError

Tell = Callable[[str, str], None]
"""Told which endpoint failed, without secrets, and the code of the error."""

_SENDS: Final = "eth_sendRawTransaction"
"""Refused for a nonce or a fee, which is no failure of the node."""


class ToldRpc(Rpc):
    """Answers as the endpoint behind it does."""

    def __init__(self, rpc: Rpc, tell: Tell) -> None:
        self._rpc = rpc
        self._tell = tell

    @property
    def where(self) -> str:
        return self._rpc.where

    async def aclose(self) -> None:
        """See `Rpc.aclose`."""
        await self._rpc.aclose()

    async def batch(
        self, requests: Sequence[tuple[str, Sequence[object]]]
    ) -> list[Any | NodeRefused]:
        """See `Rpc.batch`."""
        try:
            answers = await self._rpc.batch(requests)
        except ChainError as error:
            self._tell(self.where, error.code)
            raise
        for (method, _), answer in zip(requests, answers, strict=True):
            refused = isinstance(answer, NodeRefused) and method != _SENDS
            if refused and not is_about_the_call(answer):
                self._tell(self.where, NodeRefused.code)
        return answers
