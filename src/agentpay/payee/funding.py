"""
Puts deposits on the chain: once each, recorded first, however often they are sent.
"""

import asyncio
from weakref import WeakValueDictionary

from agentpay.core.payee_channel import Fate, PayeeChannel
from agentpay.core.payee_events import VoucherRefused
from agentpay.errors import TransactionFailed, TransactionOutcomeUnknown
from agentpay.evm.addresses import ERC3009_COLLECTOR
from agentpay.evm.batch_settlement import deposit_nonce
from agentpay.evm.eip3009 import Authorization, receive_digest
from agentpay.evm.signature import BadSignature, recover
from agentpay.facilitator import Facilitator
from agentpay.payee.books import ChannelBooks, ChannelRequest
from agentpay.payee.offers import ERROR_PREFIX, answer, payment_required
from agentpay.payee.sales import Refusal
from agentpay.payee.settlement import Settlement
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.types import Hash32
from agentpay.wire import x402_write as write
from agentpay.wire.x402 import DepositPayload


class ChannelFunding:
    """Opens channels and tops them up, for one payee."""

    def __init__(
        self,
        *,
        books: ChannelBooks,
        facilitator: Facilitator,
        settlement: Settlement,
    ) -> None:
        self._books = books
        self._settings = books.settings
        self._facilitator = facilitator
        self._settlement = settlement
        # A lock lives as long as a request holds it, so that nobody can fill this.
        self._locks: WeakValueDictionary[Hash32, asyncio.Lock] = WeakValueDictionary()

    async def fund(
        self, call: ChannelRequest, payload: DepositPayload
    ) -> Refusal | None:
        """Put a deposit on the chain once, however often it is sent to us."""
        authorization = self._deposit_authorization(call, payload)
        fields = payload.deposit.authorization.erc3009_authorization
        wrong = await self._wrong_deposit(call, payload, authorization)
        if wrong is not None:
            return self._books.refuse(call.terms, wrong)
        lock = self._locks.setdefault(call.channel, asyncio.Lock())
        async with lock:
            # A deposit that was made may have expired since: only a new one is refused.
            used = await self._is_used(call, authorization)
            late = None if used else self._wrong_time(authorization)
            if late is not None:
                return self._books.refuse(call.terms, late)
            if not await self.open_record(call):
                return self._books.refuse(call.terms, "channel_not_found")
            if not used:
                try:
                    receipt = await self._facilitator.deposit(
                        call.config,
                        amount=payload.deposit.amount,
                        valid_after=fields.valid_after,
                        valid_before=fields.valid_before,
                        salt=fields.salt,
                        signature=fields.signature,
                    )
                except TransactionFailed as error:
                    # Perhaps it was sent before, for a caller that did not wait.
                    if not await self._is_used(call, authorization):
                        return await self._deposit_failed(call, error)
                except TransactionOutcomeUnknown as error:
                    return self._deposit_unknown(call, error)
                else:
                    call.transaction = receipt.transaction
            call.deposited = payload.deposit.amount
            await self._settlement.see_chain(call.channel)
        return None

    def _wrong_time(self, authorization: Authorization) -> str | None:
        now = self._books.now()
        if authorization.valid_after > now:
            return "payload_authorization_valid_after"
        if authorization.valid_before <= now:
            return "payload_authorization_valid_before"
        return None

    async def _is_used(
        self, call: ChannelRequest, authorization: Authorization
    ) -> bool:
        return await self._facilitator.authorization_used(
            self._settings.asset, call.config.payer, authorization.nonce
        )

    def _deposit_authorization(
        self, call: ChannelRequest, payload: DepositPayload
    ) -> Authorization:
        fields = payload.deposit.authorization.erc3009_authorization
        return Authorization(
            payer=call.config.payer,
            to=ERC3009_COLLECTOR,
            value=payload.deposit.amount,
            valid_after=fields.valid_after,
            valid_before=fields.valid_before,
            nonce=deposit_nonce(call.channel, fields.salt),
        )

    async def _wrong_deposit(
        self,
        call: ChannelRequest,
        payload: DepositPayload,
        authorization: Authorization,
    ) -> str | None:
        least = max(self._settings.min_deposit, call.terms.maximum)
        record = await self._books.store.read(call.channel)
        if record is None and authorization.value < least:
            return "deposit_below_min_deposit"
        signature = payload.deposit.authorization.erc3009_authorization.signature
        digest = receive_digest(authorization, self._settings.asset)
        try:
            if recover(digest, signature) == call.config.payer:
                return None
        except BadSignature:
            pass
        if await self._facilitator.is_signature_of(
            call.config.payer, digest, signature
        ):
            return None
        return "receive_authorization_signature"

    async def open_record(self, call: ChannelRequest) -> bool:
        """Record a channel before it is funded; False if we lost what it was."""
        if await self._books.store.read(call.channel) is not None:
            return True
        state = await self._facilitator.channel_state(call.channel)
        if call.config.tagged and not state.unused:
            return False  # rule 6: its used amounts are not known to us any more
        ledger = PayeeChannel(
            tagged=call.config.tagged,
            window=self._settings.parallel.window,
            in_flight_max=self._settings.parallel.in_flight_max,
            balance=state.balance,
            claimed=state.claimed,
            pending_withdrawal=state.withdrawal,
            charged=state.claimed,
            highest=state.claimed,
        )
        fresh = PayeeRecord(
            channel=call.channel,
            chain=self._settings.asset.chain,
            config=call.config,
            ledger=ledger,
            refund_nonce=state.refund_nonce,
            chain_seen_at=self._books.now(),
        )

        def decide(record: PayeeRecord | None) -> PayeeStep[None]:
            return PayeeStep(record=record or fresh, answer=None)

        await self._books.store.update(call.channel, decide)
        return True

    async def _deposit_failed(
        self, call: ChannelRequest, error: TransactionFailed
    ) -> Refusal:
        event = VoucherRefused(cumulative=call.cumulative)
        record, _ = await self._books.update(call, event)
        reason = ERROR_PREFIX + "deposit_transaction_failed"
        receipt = self._books.receipt(record, call, error=reason, fate=Fate.VOID)
        return payment_required(
            self._settings,
            call.terms,
            error=f"{reason}: {error.reason}",
            receipt=receipt,
        )

    def _deposit_unknown(
        self, call: ChannelRequest, error: TransactionOutcomeUnknown
    ) -> Refusal:
        receipt = write.receipt(
            success=False,
            chain=self._settings.asset.chain,
            payer=call.config.payer,
            transaction=error.transaction,
            error="settlement_pending",
        )
        return answer(
            503,
            title="The deposit is on its way",
            detail=f"transaction {error.transaction}: send the same request again",
            receipt=receipt,
        )
