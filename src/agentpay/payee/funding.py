"""
Puts deposits on the chain: once each, recorded first, however often they are sent.
"""

import asyncio
from weakref import WeakValueDictionary

from agentpay.core.payee_channel import Fate, HeldVoucher, PayeeChannel
from agentpay.core.payee_events import VoucherRefused
from agentpay.errors import TransactionFailed, TransactionOutcomeUnknown
from agentpay.evm.deposit import Deposit
from agentpay.onchain import is_used, read_channel, wrong_signature
from agentpay.payee.books import ChannelBooks, ChannelRequest
from agentpay.payee.offers import ERROR_PREFIX, answer, payment_required
from agentpay.payee.sales import Refusal
from agentpay.payee.settlement import Settlement
from agentpay.ports import Chain, Settler
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.shortage import deposit_code
from agentpay.types import Hash32
from agentpay.wire import x402_write as write
from agentpay.wire.x402 import DepositPayload
from agentpay.wire.x402_approvals import read_approvals
from agentpay.wire.x402_deposits import (
    deposit_signature_code,
    read_deposit,
    wrong_deposit,
    wrong_time,
)


class ChannelFunding:
    """Opens channels and tops them up, for one payee."""

    def __init__(
        self,
        *,
        books: ChannelBooks,
        chain: Chain,
        facilitator: Settler,
        settlement: Settlement,
    ) -> None:
        self._books = books
        self._settings = books.settings
        self._chain = chain
        self._facilitator = facilitator
        self._settlement = settlement
        # A lock lives as long as a request holds it, so that nobody can fill this.
        self._locks: WeakValueDictionary[Hash32, asyncio.Lock] = WeakValueDictionary()

    def turn(self, channel: Hash32) -> asyncio.Lock:
        """Who holds it funds this channel, and nobody else of this process."""
        return self._locks.setdefault(channel, asyncio.Lock())

    async def fund(
        self, call: ChannelRequest, payload: DepositPayload
    ) -> Refusal | None:
        """
        Put a deposit on the chain once, however often it is sent to us.

        It is this request's `turn`. While the chain holds enough for its voucher, and
        that is not final yet, nothing more is deposited and nothing is decided of it.
        """
        wrong = wrong_deposit(payload, call.config, call.channel)
        if wrong is not None:
            return self._books.refuse(call.terms, wrong)
        deposit = self._read(call, payload)
        wrong = await self._wrong_deposit(call, deposit)
        if wrong is not None:
            return self._books.refuse(call.terms, wrong)
        # A deposit that was made may have expired since: only a new one is refused.
        if await is_used(self._chain, deposit):
            if not await self.open_record(call):
                return self._books.refuse(call.terms, "channel_not_found")
        elif await self._is_young(call):
            return self._waits(call)
        elif (refusal := await self._send(call, deposit)) is not None:
            return refusal
        call.deposited = deposit.amount
        await self._settlement.see_chain(call.channel)
        return self._waits(call) if await self._is_young(call) else None

    async def _is_young(self, call: ChannelRequest) -> bool:
        """Whether a voucher asks for what the chain holds, and may still take back."""
        record = await self._books.store.read(call.channel)
        if record is None or call.cumulative <= record.ledger.spendable:
            return False
        # What comes in between is seen: else a block would make it look young.
        state = await read_channel(self._chain, call.channel)
        if call.cumulative > state.balance - state.withdrawal:
            return False
        record = await self._settlement.see_chain(call.channel)
        return record is not None and call.cumulative > record.ledger.spendable

    def _read(self, call: ChannelRequest, payload: DepositPayload) -> Deposit:
        asset, approvals = self._settings.asset, None
        if payload.deposit.authorization.permit2_authorization is not None:
            approvals = read_approvals(
                call.payment.extensions,
                asset,
                payer=call.config.payer,
                amount=payload.deposit.amount,
                sponsors=self._settings.sponsors_approvals,
            )
        return read_deposit(payload, call.config, asset, approvals=approvals)

    async def _send(self, call: ChannelRequest, deposit: Deposit) -> Refusal | None:
        """Simulate, record the channel, send: nothing is kept of what cannot be had."""
        late = wrong_time(deposit, self._books.now())
        if late is not None:
            return self._books.refuse(call.terms, late)
        voucher = HeldVoucher(amount=call.cumulative, signature=call.payment.signature)
        listing = call.terms.for_catalogue
        try:
            await self._facilitator.verify_deposit(deposit, voucher, listing=listing)
        except TransactionFailed as error:
            # Perhaps it was mined just now, for a caller that did not wait.
            if not await is_used(self._chain, deposit):
                code = await deposit_code(self._chain, deposit)
                return await self._failed(call, error, code)
        except TransactionOutcomeUnknown as error:
            return self._unknown(call, error)
        if not await self.open_record(call):
            return self._books.refuse(call.terms, "channel_not_found")
        try:
            settled = await self._facilitator.deposit(deposit, voucher, listing=listing)
        except TransactionFailed as error:
            # Perhaps it was sent before, for a caller that did not wait.
            if not await is_used(self._chain, deposit):
                return await self._failed(call, error, "deposit_transaction_failed")
        except TransactionOutcomeUnknown as error:
            return self._unknown(call, error)
        else:
            call.transaction = settled.transaction
        return None

    async def _wrong_deposit(
        self, call: ChannelRequest, deposit: Deposit
    ) -> str | None:
        least = max(self._settings.min_deposit, call.terms.maximum)
        record = await self._books.store.read(call.channel)
        if record is None and deposit.amount < least:
            return "deposit_below_min_deposit"
        return await wrong_signature(
            self._chain,
            call.config.payer,
            deposit.digest(),
            deposit.signature,
            factories=self._settings.wallet_factories,
            code=deposit_signature_code(deposit),
        )

    async def open_record(self, call: ChannelRequest) -> bool:
        """Record a channel before it is funded; False if we lost what it was."""
        fresh = await self.known(call)
        if fresh is None:
            return False

        def decide(record: PayeeRecord | None) -> PayeeStep[None]:
            return PayeeStep(record=record or fresh, answer=None)

        await self._books.store.update(call.channel, decide)
        return True

    async def known(self, call: ChannelRequest) -> PayeeRecord | None:
        """A channel as it is recorded, or would be first; None if we lost it."""
        recorded = await self._books.store.read(call.channel)
        if recorded is not None:
            return recorded
        state = await self._settlement.look(call.channel)
        if call.config.tagged and not state.unused:
            return None  # rule 6: its used amounts are not known to us any more
        ledger = PayeeChannel(
            tagged=call.config.tagged,
            window=self._settings.parallel.window,
            in_flight_max=self._settings.parallel.in_flight_max,
            balance=state.balance,
            claimed=state.claimed,
            pending_withdrawal=state.withdrawal,
            charged=state.claimed,
            highest=state.claimed,
            floor=state.claimed,
        )
        return PayeeRecord(
            channel=call.channel,
            chain=self._settings.asset.chain,
            config=call.config,
            ledger=ledger,
            refund_nonce=state.refund_nonce,
            withdrawal_started=state.withdrawal_started,
            chain_seen_at=self._books.now(),
        )

    async def _failed(
        self, call: ChannelRequest, error: TransactionFailed, code: str
    ) -> Refusal:
        event = VoucherRefused(cumulative=call.cumulative)
        record, _ = await self._books.update(call, event)
        reason = ERROR_PREFIX + code
        receipt = self._books.receipt(record, call, error=reason, fate=Fate.VOID)
        return payment_required(
            self._settings,
            call.terms,
            error=f"{reason}: {error.reason}",
            receipt=receipt,
        )

    def _unknown(
        self, call: ChannelRequest, error: TransactionOutcomeUnknown
    ) -> Refusal:
        why = f"transaction {error.transaction}"
        return self._pending(call, why, error.transaction)

    def _waits(self, call: ChannelRequest) -> Refusal:
        why = "what it adds is not final yet"
        return self._pending(call, why, call.transaction)

    def _pending(self, call: ChannelRequest, why: str, transaction: str) -> Refusal:
        receipt = write.receipt(
            success=False,
            chain=self._settings.asset.chain,
            payer=call.config.payer,
            transaction=transaction,
            error="settlement_pending",
        )
        return answer(
            503,
            title="The deposit is on its way",
            detail=f"{why}: send the same request again",
            receipt=receipt,
            payment=call.key,
        )
