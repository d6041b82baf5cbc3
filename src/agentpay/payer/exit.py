"""
Leaving a channel without its payee: withdraw by time, and find channels again.

The payer's own transactions, so one of its two keys needs gas for them. Nobody can stop
them; the payee has the withdraw delay to claim what it is owed.
"""

from dataclasses import dataclass

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.core.budget import Returned
from agentpay.core.payer_channel import ChannelEmptied, ExitWanted
from agentpay.errors import ChannelUnusable, KeyElsewhere
from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.onchain import read_channel
from agentpay.payer.keys import PayerKeys
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.policy import scale
from agentpay.records import PayerRecord, channel_config
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


class Exit:
    """The unilateral exit of one payer on one chain."""

    def __init__(
        self, *, keys: PayerKeys, chain: RpcChain, ledger: PayerLedger
    ) -> None:
        self._keys = keys
        self._chain = chain
        self._ledger = ledger
        self._senders: dict[Address, TransactionSender] = {}

    async def start(self, channel: Hash32) -> Withdrawal:
        """
        Ask the contract for everything that is not claimed; nothing more is signed.

        Safe to call again: one that is under way is only looked up.

        Raises:
            KeyElsewhere: We hold no key that the contract takes it from.
            ChannelUnusable: The channel is not in the store, has nothing in it, or is
                a session of MPP's.
            ChainError: The transaction was not sent, or is not known to be mined.
        """
        record = await self._record(channel)
        config = channel_config(record)
        sender = self._sender_for(channel, config)
        await self._ledger.book(channel, ExitWanted())
        state = await read_channel(self._chain, channel)
        transaction = ""
        if not state.withdrawal_started:
            left = state.balance - state.claimed
            if left <= 0:
                raise ChannelUnusable(f"channel {channel} has nothing left in it")
            call = channels.initiate_withdraw_call(config, left)
            transaction = (await sender.send(call)).transaction
            state = await read_channel(self._chain, channel)
        return Withdrawal(
            channel=channel,
            amount=state.withdrawal,
            ready_at=state.withdrawal_started + config.withdraw_delay,
            transaction=transaction,
        )

    async def finish(self, channel: Hash32) -> Withdrawal:
        """
        Take the money once the delay is over; what came back is read from the chain.

        Raises:
            KeyElsewhere: We hold no key that the contract takes it from.
            ChannelUnusable: The channel is not in the store, or is a session of MPP's.
            TransactionFailed: It is too early, or no withdrawal was started.
            ChainError: The transaction was not sent, or is not known to be mined.
        """
        record = await self._record(channel)
        config = channel_config(record)
        sender = self._sender_for(channel, config)
        state = await read_channel(self._chain, channel)
        transaction = ""
        # Done before, and not booked: its answer was lost.
        if state.withdrawal_started or record.ledger.balance <= state.balance:
            call = channels.finalize_withdraw_call(config)
            transaction = (await sender.send(call)).transaction
            state = await read_channel(self._chain, channel)
        now = await self._record(channel)  # another may have booked it meanwhile
        returned = max(0, now.ledger.balance - state.balance)
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

    def _sender_for(self, channel: Hash32, config: ChannelConfig) -> TransactionSender:
        """The contract takes it from the payer, or from the key of the vouchers."""
        sides = (config.payer, config.payer_authorizer)
        for signer in (self._keys.wallet, self._keys.voucher):
            if isinstance(signer, Wallet) and signer.address in sides:
                if signer.address not in self._senders:
                    sender = TransactionSender(self._chain, key=signer.gas_key())
                    self._senders[signer.address] = sender
                return self._senders[signer.address]
        raise KeyElsewhere(
            f"channel {channel} is left by {sides[0]} or by {sides[1]}, and"
            " neither key is here to pay gas with"
        )

    async def _record(self, channel: Hash32) -> PayerRecord:
        record = await self._ledger.read(channel)
        if record is None:
            raise ChannelUnusable(f"there is no channel {channel} in this store")
        return record

    async def aclose(self) -> None:
        """Stop following transactions."""
        for sender in self._senders.values():
            await sender.aclose()
