"""
Moves money on chain for a payee: verifies, simulates, sends, and reads the result.

The payee's own, in its process and with its own gas-paying key. What a transaction did
is read from its events, never from its status alone (a token may return false and
still succeed).
"""

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from eth_abi.exceptions import DecodingError

from agentpay.errors import ChainUnreachable, TransactionFailed, UnsuitableToken
from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm import eip3009_abi as tokens
from agentpay.evm.batch_settlement import (
    ChannelConfig,
    VoucherClaim,
    channel_id,
    claim_batch_digest,
    refund_digest,
)
from agentpay.evm.batch_settlement_abi import ChannelOnChain
from agentpay.evm.calls import Call, Receipt
from agentpay.evm.eip3009 import Authorization, token_separator
from agentpay.evm.hashing import address_word
from agentpay.ports import Chain, Sender, Signer
from agentpay.types import Address, Asset, Hash32

_log = logging.getLogger(__name__)

REFUND_ALL = 2**128 - 1


async def check_asset(chain: Chain, asset: Asset) -> None:
    """
    Compare what is declared of a token with what its contract says.

    Raises:
        UnsuitableToken: No code, no EIP-3009, other decimals or another EIP-712 domain.
        ChainUnreachable: The contract could not be read.
    """
    name = f"token {asset.address} on chain {asset.chain}"
    if not await chain.code(asset.address):
        raise UnsuitableToken(f"{name}: there is no contract at this address")
    try:
        answers = await chain.read(tokens.token_fact_calls(asset.address))
        facts = tokens.decode_token_facts(answers)
    except (ValueError, TransactionFailed) as error:
        raise UnsuitableToken(f"{name}: it has no EIP-3009 transfers") from error
    if facts.decimals != asset.decimals:
        raise UnsuitableToken(
            f"{name}: it has {facts.decimals} decimals, {asset.decimals} are declared"
        )
    if facts.domain_separator.to_bytes() != token_separator(asset):
        raise UnsuitableToken(
            f"{name}: its EIP-712 domain is not the declared"
            f" name {asset.name!r}, version {asset.version!r}"
        )


@contextmanager
def _sense() -> Generator[None]:
    """An answer that no contract of ours gives: the endpoint is not to be trusted."""
    try:
        yield
    except (ValueError, DecodingError) as error:
        raise ChainUnreachable(f"the endpoint answers nonsense: {error}") from error


async def read_channel(chain: Chain, channel: Hash32) -> ChannelOnChain:
    """
    What the contract says of a channel, all of it at one block.

    Raises:
        ChainUnreachable: It could not be read, or the answer makes no sense.
    """
    answers = await chain.read(channels.channel_state_calls(channel))
    with _sense():
        return channels.decode_channel_state(answers)


class Facilitator:
    """Sends what others signed. One key pays the gas of all of it."""

    def __init__(self, *, chain: Chain, sender: Sender) -> None:
        self._chain = chain
        self._sender = sender

    @property
    def chain(self) -> Chain:
        return self._chain

    async def channel_state(self, channel: Hash32) -> ChannelOnChain:
        """What the contract says of a channel now."""
        return await read_channel(self._chain, channel)

    async def authorization_used(
        self, asset: Asset, payer: Address, nonce: Hash32
    ) -> bool:
        """Whether an EIP-3009 authorization was used (or cancelled)."""
        call = tokens.authorization_used_call(asset.address, payer, nonce)
        (answer,) = await self._chain.read([call])
        with _sense():
            return tokens.decode_uint(answer) != 0

    async def is_signature_of(
        self, wallet: Address, digest: bytes, signature: bytes
    ) -> bool:
        """Ask a contract wallet whether it signed (ERC-1271); False for plain keys."""
        if not await self._chain.code(wallet):
            return False
        call = tokens.valid_signature_call(wallet, digest, signature)
        try:
            (answer,) = await self._chain.read([call])
        except TransactionFailed:
            return False
        return tokens.is_valid_answer(answer)

    async def verify_exact(
        self, asset: Asset, authorization: Authorization, signature: bytes
    ) -> None:
        """
        Raises:
            TransactionFailed: The transfer would not go through now.
        """
        await self._sender.simulate(
            tokens.transfer_call(asset.address, authorization, signature)
        )

    async def settle_exact(
        self, asset: Asset, authorization: Authorization, signature: bytes
    ) -> Receipt:
        """
        Send a transfer that its payer signed; somebody else's sending it counts too.

        Raises:
            TransactionFailed: It did not move the money.
            TransactionOutcomeUnknown: It was sent and may yet be mined.
        """
        call = tokens.transfer_call(asset.address, authorization, signature)
        try:
            receipt = await self._sender.send(call)
        except TransactionFailed:
            earlier = await self.find_transfer(asset, authorization)
            if earlier is None:
                raise
            receipt = earlier
        if not tokens.paid(receipt.logs, asset, authorization):
            raise TransactionFailed(
                call.what,
                reason="it left no matching Transfer event",
                transaction=receipt.transaction,
            )
        _log.info(
            "settled %d of %s from %s to %s in %s",
            authorization.value,
            asset.address,
            authorization.payer,
            authorization.to,
            receipt.transaction,
        )
        return receipt

    async def find_transfer(
        self, asset: Asset, authorization: Authorization, *, blocks: int = 1000
    ) -> Receipt | None:
        """The transaction that used an authorization to pay the right account."""
        head = await self._chain.head()
        logs = await self._chain.logs(
            address=asset.address,
            topics=[
                tokens.AUTHORIZATION_USED,
                Hash32.of(address_word(authorization.payer)),
                authorization.nonce,
            ],
            first_block=max(0, head.number - blocks),
            last_block=head.number,
        )
        for log in logs:
            receipt = await self._chain.receipt(log.transaction)
            if receipt and tokens.paid(receipt.logs, asset, authorization):
                return receipt
        return None

    async def deposit(
        self,
        config: ChannelConfig,
        *,
        amount: int,
        valid_after: int,
        valid_before: int,
        salt: Hash32,
        signature: bytes,
    ) -> Receipt:
        """
        Fund a channel with a transfer that its payer signed for it alone.

        Raises:
            TransactionFailed: The channel was not funded.
            TransactionOutcomeUnknown: It was sent and may yet be mined.
        """
        call = channels.deposit_call(
            config,
            amount=amount,
            valid_after=valid_after,
            valid_before=valid_before,
            salt=salt,
            signature=signature,
        )
        receipt = await self._sender.send(call)
        channel = channel_id(config, self._chain.chain_id)
        if channels.amount_in(receipt.logs, channels.DEPOSITED, channel) != amount:
            raise TransactionFailed(
                call.what,
                reason="it left no matching Deposited event",
                transaction=receipt.transaction,
            )
        _log.info("deposited %d in channel %s", amount, channel)
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

    async def unsettled(self, receiver: Address, token: Address) -> int:
        """What was claimed for a receiver and not sent to it yet."""
        call = channels.receiver_state_call(receiver, token)
        (answer,) = await self._chain.read([call])
        with _sense():
            claimed, settled = channels.decode_receiver_state(answer)
        return claimed - settled

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
