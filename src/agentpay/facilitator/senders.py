"""
Several keys that pay gas, used as one: a call goes where the fewest are in flight.
"""

from collections.abc import Iterator, Sequence

from agentpay.errors import ConfigurationError, GasMissing, TransactionFailed
from agentpay.evm.calls import Call, Receipt
from agentpay.sending_ports import Sender
from agentpay.types import Address


class SenderPool:
    """Sends from whichever key is free, or from the one that a call is bound to."""

    def __init__(self, senders: Sequence[Sender]) -> None:
        """
        Raises:
            ConfigurationError: None at all, or the same key twice.
        """
        self._senders = {sender.address: sender for sender in senders}
        if not senders or len(self._senders) != len(senders):
            raise ConfigurationError(
                f"a facilitator needs different keys that pay gas, not {len(senders)}"
                f" of which {len(self._senders)} differ"
            )
        self._in_flight = dict.fromkeys(self._senders, 0)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The accounts that pay gas; the first is the one to bind calls to."""
        return tuple(self._senders)

    async def simulate(
        self, call: Call, *, gas_max: int, by: Address | None = None
    ) -> None:
        """
        Raises:
            TransactionFailed: It would revert, use more gas, or is not ours to send.
        """
        sender = next(self._candidates(call, by))
        await sender.simulate(call, gas_max=gas_max)

    async def resume(self) -> None:
        """Take up what every key had in flight when the last process ended."""
        for sender in self._senders.values():
            await sender.resume()

    async def send(
        self,
        call: Call,
        *,
        gas_max: int,
        by: Address | None = None,
        deadline: int = 0,
    ) -> Receipt:
        """
        See `Sender.send`. A key that cannot pay leaves it to the next; a call that is
        under way already stays with its key.
        """
        await self.resume()
        poor: GasMissing | None = None
        for sender in self._candidates(call, by):
            self._in_flight[sender.address] += 1
            try:
                return await sender.send(call, gas_max=gas_max, deadline=deadline)
            except GasMissing as error:
                poor = error
            finally:
                self._in_flight[sender.address] -= 1
        raise poor or GasMissing(f"{call.what}: no key is left to pay for it")

    def _candidates(self, call: Call, by: Address | None) -> Iterator[Sender]:
        if by is not None:
            if by not in self._senders:
                reason = f"only {by} may send it, which is no key of ours"
                raise TransactionFailed(call.what, reason=reason)
            return iter([self._senders[by]])
        free = sorted(
            self._in_flight,
            key=lambda address: (
                not self._senders[address].carries(call),
                self._in_flight[address],
            ),
        )
        return iter([self._senders[address] for address in free])
