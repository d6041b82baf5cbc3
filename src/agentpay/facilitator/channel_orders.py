"""
Claims, settles and refunds channels for payees that ask.

Source: x402 `specs/schemes/batch-settlement/scheme_batch_settlement_evm.md`, "POST
/settle". Money leaves a channel only by signatures of its payer and of its receiver
authorizer; for a payee that delegated the latter to us, we sign. What changes nothing
is not sent: it would cost gas. Codes are without their prefix.
"""

from collections.abc import Awaitable, Generator, Sequence
from contextlib import contextmanager

from agentpay.errors import TransactionFailed, TransactionOutcomeUnknown
from agentpay.evm.batch_settlement import (
    ChannelConfig,
    VoucherClaim,
    channel_id,
    claim_batch_digest,
    refund_digest,
)
from agentpay.evm.batch_settlement_abi import SignedRefund
from agentpay.facilitator.embedded import Facilitator
from agentpay.facilitator.once import Refused
from agentpay.onchain import read_channel, read_claimed, read_unsettled
from agentpay.ports import Chain, Signer
from agentpay.records import Settled
from agentpay.types import Asset, Hash32
from agentpay.wire.x402 import Requirements
from agentpay.wire.x402_deposits import read_config
from agentpay.wire.x402_facilitator import (
    PENDING,
    ClaimPayload,
    RefundOrder,
    SettlePayload,
    read_claims,
    wrong_channel,
)


class ChannelOrders:
    """
    Takes what payees want done with channels, for one facilitator.

    That the same order is under way is known within a process. Two that are asked at
    once may both send it: the contract does it once, so that one of them says that it
    failed, and has paid gas for that.
    """

    def __init__(
        self, *, chain: Chain, facilitator: Facilitator, authorizer: Signer | None
    ) -> None:
        """With `authorizer`, payees may leave their signatures to us."""
        self._chain = chain
        self._facilitator = facilitator
        self._authorizer = authorizer
        self._running: set[bytes] = set()

    async def claim(
        self, payload: ClaimPayload, wanted: Requirements
    ) -> Settled | Refused:
        """Record on chain what vouchers allow, if any of it is new."""
        claims = read_claims(payload.claims)
        for row in claims:
            if row.config.token != wanted.asset:
                return Refused(code="token_mismatch")
            if row.config.receiver != wanted.pay_to:
                return Refused(code="receiver_mismatch")
        digest = claim_batch_digest(claims, self._chain.chain_id)
        signature = await self._authorized(
            claims, digest, payload.claim_authorizer_signature
        )
        if isinstance(signature, Refused):
            return signature
        with self._alone(digest) as free:
            if not free:
                return Refused(code=PENDING, message="it is being claimed now")
            try:
                await self._facilitator.simulate_claims(claims, signature)
            except TransactionFailed as error:
                return Refused(code="claim_simulation_failed", message=error.reason)
            ids = [channel_id(row.config, self._chain.chain_id) for row in claims]
            claimed = await read_claimed(self._chain, ids)
            due = zip(claims, claimed, strict=True)
            if all(row.total_claimed <= before for row, before in due):
                return Refused(
                    code="claim_simulation_failed", message="all of it is claimed"
                )
            return await _done(
                self._facilitator.send_claims(claims, signature),
                code="claim_transaction_failed",
                event="Claimed",
            )

    async def settle(
        self, payload: SettlePayload, wanted: Requirements, asset: Asset
    ) -> Settled | Refused:
        """Send a receiver what was claimed for it."""
        if payload.token != asset.address:
            return Refused(code="token_mismatch")
        if payload.receiver != wanted.pay_to:
            return Refused(code="receiver_mismatch")
        key = payload.receiver.to_bytes() + payload.token.to_bytes()
        with self._alone(key) as free:
            if not free:
                return Refused(code=PENDING, message="it is being settled now")
            if not await read_unsettled(self._chain, payload.receiver, payload.token):
                return Refused(code="nothing_to_settle")
            return await _done(
                self._facilitator.settle(payload.receiver, asset),
                code="settle_transaction_failed",
                event="Settled",
            )

    async def refund(
        self, payload: RefundOrder, wanted: Requirements
    ) -> Settled | Refused:
        """Claim what is due, and give the rest back to the payer."""
        config, claims = (
            read_config(payload.channel_config),
            read_claims(payload.claims),
        )
        channel = channel_id(config, self._chain.chain_id)
        code = wrong_channel(config, payload.voucher.channel_id, wanted)
        if code is not None:
            return Refused(code=code)
        if any(row.config != config for row in claims):
            return Refused(code="channel_id_mismatch")
        if not payload.amount:
            return Refused(code="refund_amount_invalid")
        refund = await self._signed_refund(payload, config, claims)
        if isinstance(refund, Refused):
            return refund
        with self._alone(channel.to_bytes()) as free:
            if not free:
                return Refused(code=PENDING, message="it is being refunded now")
            refused = await self._cannot_refund(refund, channel)
            if refused is not None:
                return refused
            return await _done(
                self._facilitator.send_refund(refund),
                code="refund_transaction_failed",
                event="Refunded",
            )

    async def _cannot_refund(
        self, refund: SignedRefund, channel: Hash32
    ) -> Refused | None:
        state = await read_channel(self._chain, channel)
        due = max([state.claimed, *(row.total_claimed for row in refund.claims)])
        if state.balance <= due:
            return Refused(code="refund_no_balance")
        try:
            await self._facilitator.simulate_refund(refund)
        except TransactionFailed as error:
            return Refused(code="refund_simulation_failed", message=error.reason)
        return None

    async def _signed_refund(
        self,
        payload: RefundOrder,
        config: ChannelConfig,
        claims: tuple[VoucherClaim, ...],
    ) -> SignedRefund | Refused:
        chain = self._chain.chain_id
        digest = refund_digest(
            channel_id(config, chain),
            nonce=payload.refund_nonce,
            amount=payload.amount,
            chain=chain,
        )
        signature = await self._sign(
            config, digest, payload.refund_authorizer_signature
        )
        claiming: bytes | Refused = b""
        if claims:
            claiming = await self._authorized(
                claims,
                claim_batch_digest(claims, chain),
                payload.claim_authorizer_signature,
            )
        if isinstance(signature, Refused):
            return signature
        if isinstance(claiming, Refused):
            return claiming
        return SignedRefund(
            config=config,
            amount=payload.amount,
            nonce=payload.refund_nonce,
            signature=signature,
            claims=claims,
            claims_signature=claiming,
        )

    async def _authorized(
        self, claims: Sequence[VoucherClaim], digest: bytes, given: bytes | None
    ) -> bytes | Refused:
        for row in claims[1:]:
            if row.config.receiver_authorizer != claims[0].config.receiver_authorizer:
                return Refused(code="authorizer_address_mismatch")
        return await self._sign(claims[0].config, digest, given)

    async def _sign(
        self, config: ChannelConfig, digest: bytes, given: bytes | None
    ) -> bytes | Refused:
        """The payee's own signature, or ours where it delegated that to us."""
        if given is not None:
            return given
        if self._authorizer is None:
            return Refused(code="authorizer_not_configured")
        if config.receiver_authorizer != self._authorizer.address:
            return Refused(code="authorizer_address_mismatch")
        return await self._authorizer.sign_digest(digest, chain=self._chain.chain_id)

    @contextmanager
    def _alone(self, key: bytes) -> Generator[bool]:
        """Whether nobody else does this very thing now; until it is left."""
        if key in self._running:
            yield False
            return
        self._running.add(key)
        try:
            yield True
        finally:
            self._running.discard(key)


async def _done(
    sending: Awaitable[Settled], *, code: str, event: str
) -> Settled | Refused:
    """The result by its events: a status of 1 alone is no success (F5)."""
    try:
        settled = await sending
    except TransactionFailed as error:
        return Refused(code=code, message=error.reason, transaction=error.transaction)
    except TransactionOutcomeUnknown as error:
        return Refused(code=PENDING, message=str(error), transaction=error.transaction)
    if not settled.amount:
        message = f"it left no {event} event"
        return Refused(code=code, message=message, transaction=settled.transaction)
    return settled
