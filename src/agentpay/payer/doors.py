"""
How a contract lets a payer out of a channel that its payee does not close.
"""

from dataclasses import dataclass
from typing import Protocol

from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm import session_escrow_abi as sessions
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.evm.calls import Call
from agentpay.evm.session_escrow import SessionConfig
from agentpay.onchain import read_channel, read_session, read_words
from agentpay.ports import Chain
from agentpay.types import Address, Hash32


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a channel stands on its way out. Amounts are base units."""

    balance: int
    """What was put in, less what came back."""
    left: int
    """What of it is not the payee's."""
    started: bool
    leaving: int
    """What comes back as things stand."""
    ready_at: int
    """When it can be finished, in the chain's time."""
    over: bool = False
    """Whether it is closed for ever."""


class Door(Protocol):
    """The way out of one channel."""

    @property
    def sides(self) -> tuple[Address, ...]:
        """Whose transactions the contract takes."""
        ...

    async def look(self) -> Standing:
        """
        Raises:
            ChainError: The chain could not be asked.
        """
        ...

    def start(self, left: int) -> Call: ...

    def finish(self) -> Call: ...


class ChannelDoor:
    """Of x402's channels: the delay is the channel's own. Implements `Door`."""

    def __init__(self, chain: Chain, channel: Hash32, config: ChannelConfig) -> None:
        self._chain = chain
        self._channel = channel
        self._config = config

    @property
    def sides(self) -> tuple[Address, ...]:
        """See `Door.sides`: the payer, and the key of the vouchers."""
        return self._config.payer, self._config.payer_authorizer

    async def look(self) -> Standing:
        """See `Door.look`."""
        state = await read_channel(self._chain, self._channel)
        return Standing(
            balance=state.balance,
            left=state.balance - state.claimed,
            started=bool(state.withdrawal_started),
            leaving=state.withdrawal,
            ready_at=state.withdrawal_started + self._config.withdraw_delay,
        )

    def start(self, left: int) -> Call:
        """See `Door.start`."""
        return channels.initiate_withdraw_call(self._config, left)

    def finish(self) -> Call:
        """See `Door.finish`."""
        return channels.finalize_withdraw_call(self._config)


class SessionDoor:
    """
    Of MPP's sessions: the grace period is the contract's. Implements `Door`.

    Source: draft-evm-session-00, "Forced Close".
    """

    def __init__(self, chain: Chain, config: SessionConfig) -> None:
        self._chain = chain
        self._config = config

    @property
    def sides(self) -> tuple[Address, ...]:
        """See `Door.sides`: the payer alone."""
        return (self._config.payer,)

    async def look(self) -> Standing:
        """See `Door.look`."""
        escrow = self._config.escrow
        state = await read_session(self._chain, self._config)
        (grace,) = await read_words(self._chain, [sessions.grace_seconds_call(escrow)])
        return Standing(
            balance=state.settled if state.finalized else state.deposit,
            left=state.unsettled,
            started=bool(state.close_requested_at) and not state.finalized,
            leaving=state.unsettled,
            ready_at=state.close_requested_at + grace,
            over=state.finalized,
        )

    def start(self, left: int) -> Call:
        """See `Door.start`: all that is left, whatever it comes to be."""
        del left
        return sessions.request_close_call(self._config.channel, self._config.escrow)

    def finish(self) -> Call:
        """See `Door.finish`."""
        return sessions.withdraw_call(self._config.channel, self._config.escrow)
