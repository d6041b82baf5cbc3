"""A sender to which large calls are too dear."""

from agentpay.chain.sender import TransactionSender
from agentpay.errors import ChainError
from agentpay.evm.calls import Call, Receipt
from agentpay.types import Address


class DearSender:
    """Sends what another one does, up to so many bytes of a call. A `Sender`."""

    def __init__(
        self, sender: TransactionSender, error: ChainError, *, bytes_max: int
    ) -> None:
        self._sender = sender
        self._error = error
        self.bytes_max = bytes_max
        self.sent = 0

    @property
    def address(self) -> Address:
        return self._sender.address

    async def simulate(self, call: Call, *, gas_max: int | None = None) -> None:
        await self._sender.simulate(call, gas_max=gas_max)

    async def resume(self) -> None:
        await self._sender.resume()

    def carries(self, call: Call) -> bool:
        return self._sender.carries(call)

    async def send(
        self, call: Call, *, gas_max: int | None = None, deadline: int = 0
    ) -> Receipt:
        if len(call.data) > self.bytes_max:
            raise self._error
        self.sent += 1
        return await self._sender.send(call, gas_max=gas_max, deadline=deadline)
