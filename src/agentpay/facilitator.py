"""
Moves money on chain for a payee: verifies, simulates, sends, and reads the result.

The payee's own, in its process and with its own gas-paying key. What a transaction did
is read from its events, never from its status alone (a token may return false and
still succeed).
"""

import logging
from collections.abc import Sequence

from agentpay.errors import TransactionFailed
from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm.batch_settlement import (
    ChannelConfig,
    VoucherClaim,
    channel_id,
    claim_batch_digest,
    refund_digest,
)
from agentpay.evm.calls import Call, Receipt
from agentpay.evm.deposit import Deposit
from agentpay.evm.hashing import address_word
from agentpay.evm.transfer import Transfer
from agentpay.onchain import find_transfer
from agentpay.ports import Chain, Sender, Signer
from agentpay.types import Address, Hash32

_log = logging.getLogger(__name__)

REFUND_ALL = 2**128 - 1


class Facilitator:
    """Sends what others signed. One key pays the gas of all of it."""

    def __init__(self, *, chain: Chain, sender: Sender) -> None:
        self._chain = chain
        self._sender = sender

    @property
    def chain(self) -> Chain:
        return self._chain

    async def verify(self, transfer: Transfer) -> None:
        """
        Simulate a transfer of all that it may move.

        Raises:
            TransactionFailed: It would not go through now.
        """
        await self._sender.simulate(transfer.call(transfer.maximum))

    async def settle_transfer(self, transfer: Transfer, amount: int) -> Receipt:
        """
        Send a transfer that its payer signed; somebody else's sending it counts too,
        so read what it `moved` from the receipt.

        Raises:
            TransactionFailed: It did not move the money.
            TransactionOutcomeUnknown: It was sent and may yet be mined.
        """
        call = transfer.call(amount)
        try:
            receipt = await self._sender.send(call)
        except TransactionFailed:
            earlier = await find_transfer(self._chain, transfer)
            if earlier is None:
                raise
            receipt = earlier
        if not (moved := transfer.moved(receipt.logs)):
            raise TransactionFailed(
                call.what,
                reason="it left no matching Transfer event",
                transaction=receipt.transaction,
            )
        _log.info(
            "settled %d of %s from %s to %s in %s",
            moved,
            transfer.asset.address,
            transfer.payer,
            transfer.to,
            receipt.transaction,
        )
        return receipt

    async def verify_deposit(self, deposit: Deposit) -> None:
        """
        Simulate a deposit.

        Raises:
            TransactionFailed: It would not go through now.
        """
        await self._sender.simulate(deposit.call())

    async def deposit(self, deposit: Deposit) -> Receipt:
        """
        Fund a channel with a transfer that its payer signed for it alone.

        Raises:
            TransactionFailed: The channel was not funded.
            TransactionOutcomeUnknown: It was sent and may yet be mined.
        """
        call = deposit.call()
        receipt = await self._sender.send(call)
        channel = channel_id(deposit.config, self._chain.chain_id)
        arrived = channels.amount_in(receipt.logs, channels.DEPOSITED, channel)
        if arrived != deposit.amount:
            raise TransactionFailed(
                call.what,
                reason="it left no matching Deposited event",
                transaction=receipt.transaction,
            )
        _log.info("deposited %d in channel %s", deposit.amount, channel)
        return receipt

    async def claim(
        self, claims: Sequence[VoucherClaim], *, authorizer: Signer
    ) -> Receipt:
        """
        Record on chain what vouchers allow; moves no tokens.

        Raises:
            TransactionFailed: None of them was claimed.
            TransactionOutcomeUnknown: It was sent and may yet be mined.
        """
        chain = self._chain.chain_id
        digest = claim_batch_digest(claims, chain)
        signature = await authorizer.sign_digest(digest, chain=chain)
        receipt = await self._sender.send(channels.claim_call(claims, signature))
        _log.info("claimed %d channel(s) in %s", len(claims), receipt.transaction)
        return receipt

    async def settle(self, receiver: Address, token: Address) -> tuple[Receipt, int]:
        """
        Send a receiver all that was claimed for it; returns how much that was.

        Raises:
            TransactionFailed: Nothing was sent.
            TransactionOutcomeUnknown: It was sent and may yet be mined.
        """
        receipt = await self._sender.send(channels.settle_call(receiver, token))
        to = Hash32.of(address_word(receiver))
        amount = channels.amount_in(receipt.logs, channels.SETTLED, to) or 0
        _log.info("settled %d of %s to %s", amount, token, receiver)
        return receipt, amount

    async def refund(
        self,
        config: ChannelConfig,
        *,
        amount: int,
        nonce: int,
        claims: Sequence[VoucherClaim],
        authorizer: Signer,
    ) -> tuple[Receipt, int]:
        """
        Claim what is due and give the rest (at most `amount`) back, in one transaction.

        Raises:
            TransactionFailed: Neither happened.
            TransactionOutcomeUnknown: It was sent and may yet be mined.
        """
        chain = self._chain.chain_id
        channel = channel_id(config, chain)
        calls: list[Call] = []
        if claims:
            digest = claim_batch_digest(claims, chain)
            signature = await authorizer.sign_digest(digest, chain=chain)
            calls.append(channels.claim_call(claims, signature))
        digest = refund_digest(channel, nonce=nonce, amount=amount, chain=chain)
        signature = await authorizer.sign_digest(digest, chain=chain)
        refund = channels.refund_call(
            config, amount=amount, nonce=nonce, authorizer_signature=signature
        )
        calls.append(refund)
        receipt = await self._sender.send(
            channels.multicall(calls) if len(calls) > 1 else refund
        )
        refunded = channels.amount_in(receipt.logs, channels.REFUNDED, channel) or 0
        _log.info("refunded %d of channel %s to %s", refunded, channel, config.payer)
        return receipt, refunded
