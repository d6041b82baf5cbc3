"""
Leaving a channel without its payee: withdraw by time, and find channels again.

The payer's own transactions, so one of its two keys needs gas for them. Nobody can stop
them; the payee has the withdraw delay to claim what it is owed.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.core.budget import Returned
from agentpay.core.payer_channel import ChannelEmptied, ExitWanted, PendingDeposit
from agentpay.errors import ChannelUnusable, KeyElsewhere
from agentpay.evm.session_escrow import SessionConfig
from agentpay.payer.doors import ChannelDoor, Door, SessionDoor
from agentpay.payer.keys import PayerKeys
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.policy import scale
from agentpay.records import PayerRecord
from agentpay.signers.wallet import Wallet
from agentpay.types import Address, Hash32


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """A withdrawal under way, or done. Amounts are base units."""

    channel: Hash32
    amount: int
    ready_at: int
    """When it can be finished, in the chain's time."""
    transaction: str


class Stage(Enum):
    """How far a withdrawal is."""

    NOT_STARTED = auto()
    WAITING = auto()
    """For its delay to be over."""
    DUE = auto()
    """To be finished, or to be booked."""


class Exit:
    """The unilateral exit of one payer on one chain."""

    def __init__(
        self,
        *,
        keys: PayerKeys,
        chain: RpcChain,
        ledger: PayerLedger,
        resolve: Callable[[PayerRecord, PendingDeposit], Awaitable[bool]],
    ) -> None:
        """`resolve` asks the chain what became of a deposit; see `Inquiry`."""
        self._keys = keys
        self._chain = chain
        self._ledger = ledger
        self._resolve = resolve
        self._senders: dict[Address, TransactionSender] = {}

    async def start(self, channel: Hash32) -> Withdrawal:
        """
        Ask the contract for everything that is not claimed; nothing more is signed.

        Safe to call again: one that is under way is only looked up.

        Raises:
            KeyElsewhere: We hold no key that the contract takes it from.
            ChannelUnusable: The channel is not in the store, or has nothing in it.
            ChainError: The transaction was not sent, or is not known to be mined.
        """
        record = await self._with_its_deposit(channel)
        door = self._door_of(record)
        sender = self._sender_for(channel, door)
        await self._ledger.book(channel, ExitWanted())
        await sender.wait_for_earlier(f"withdraw from channel {channel}")
        standing = await door.look()
        transaction = ""
        if not standing.started:
            if standing.left <= 0:
                raise ChannelUnusable(f"channel {channel} has nothing left in it")
            transaction = (await sender.send(door.start(standing.left))).transaction
            standing = await door.look()
        return Withdrawal(
            channel=channel,
            amount=standing.leaving,
            ready_at=standing.ready_at,
            transaction=transaction,
        )

    async def finish(self, channel: Hash32) -> Withdrawal:
        """
        Take the money once the delay is over; what came back is read from the chain.

        Raises:
            KeyElsewhere: We hold no key that the contract takes it from.
            ChannelUnusable: The channel is not in the store.
            TransactionFailed: It is too early, or no withdrawal was started.
            ChainError: The transaction was not sent, or is not known to be mined.
        """
        record = await self._with_its_deposit(channel)
        door = self._door_of(record)
        sender = self._sender_for(channel, door)
        await sender.wait_for_earlier(f"withdraw from channel {channel}")
        standing = await door.look()
        transaction = ""
        # Done before, and not booked: its answer was lost.
        undone = standing.started or record.ledger.balance <= standing.balance
        if undone and not standing.over:
            transaction = (await sender.send(door.finish())).transaction
            standing = await door.look()
        now = await self._record(channel)  # another may have booked it meanwhile
        returned = max(0, now.ledger.balance - standing.balance)
        back = Returned(host=record.host, amount=scale(returned, record.decimals))
        await self._ledger.book(
            channel, ChannelEmptied(returned=returned), money=(back,)
        )
        return Withdrawal(
            channel=channel,
            amount=returned,
            ready_at=0,
            transaction=transaction,
        )

    async def stage(self, channel: Hash32) -> Stage:
        """How far the chain says that a withdrawal is."""
        record = await self._record(channel)
        standing = await self._door_of(record).look()
        if not standing.started:
            # Done, and its end was never booked; or never begun.
            back = standing.balance < record.ledger.balance
            return Stage.DUE if back else Stage.NOT_STARTED
        over = (await self._chain.head()).timestamp >= standing.ready_at
        return Stage.DUE if over else Stage.WAITING

    def _door_of(self, record: PayerRecord) -> Door:
        if isinstance(record.config, SessionConfig):
            return SessionDoor(self._chain, record.config)
        return ChannelDoor(self._chain, record.channel, record.config)

    def _sender_for(self, channel: Hash32, door: Door) -> TransactionSender:
        """What pays the gas: a key of ours that the contract takes it from."""
        for signer in (self._keys.wallet, self._keys.voucher):
            if isinstance(signer, Wallet) and signer.address in door.sides:
                if signer.address not in self._senders:
                    sender = TransactionSender(self._chain, key=signer.gas_key())
                    self._senders[signer.address] = sender
                return self._senders[signer.address]
        raise KeyElsewhere(
            f"channel {channel} is left by {' or by '.join(door.sides)}, and"
            " no such key is here to pay gas with"
        )

    async def _with_its_deposit(self, channel: Hash32) -> PayerRecord:
        """
        A deposit whose answer was lost is booked first: what comes back is measured
        by what our books have in the channel.
        """
        record = await self._record(channel)
        if record.ledger.deposit is not None:
            await self._resolve(record, record.ledger.deposit)
        return await self._record(channel)

    async def _record(self, channel: Hash32) -> PayerRecord:
        record = await self._ledger.read(channel)
        if record is None:
            raise ChannelUnusable(f"there is no channel {channel} in this store")
        return record

    async def aclose(self) -> None:
        """Stop following transactions."""
        for sender in self._senders.values():
            await sender.aclose()
