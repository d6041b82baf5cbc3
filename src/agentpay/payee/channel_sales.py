"""
Sells requests on `batch-settlement` channels: checks, funds, admits, charges, refunds.

Signature before state: nobody learns anything of a channel, or changes it, without its
payer's signature. The rules themselves are in `core.payee_rules`.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import TypeVar

from agentpay.core import payee_rules
from agentpay.core.evolve import evolve
from agentpay.core.payee_channel import Fate, PartRefund
from agentpay.core.payee_events import (
    BUSY,
    EXCEEDS_BALANCE,
    MISMATCH,
    Admitted,
    Closing,
    OutcomeAsked,
    PartGiven,
    RefundAsked,
    Refused,
    Spent,
    VoucherRefused,
    VoucherVerified,
)
from agentpay.errors import ChainError, InvariantViolated
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.onchain import is_voucher_signed, read_channel
from agentpay.payee.books import (
    ChannelBooks,
    ChannelPayment,
    ChannelRequest,
    Told,
)
from agentpay.payee.channel_sale import ChannelSale
from agentpay.payee.funding import ChannelFunding
from agentpay.payee.offers import (
    ERROR_PREFIX,
    answer,
    channel_extra,
    corrective_extra,
    may_correct,
    payment_required,
    to_json,
)
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Refusal, Sale
from agentpay.payee.settlement import Settlement
from agentpay.ports import Chain
from agentpay.records import PayeeRecord
from agentpay.types import Hash32
from agentpay.whole_steps import take_whole
from agentpay.wire import x402_write as write
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import PAYMENT_RESPONSE, DepositPayload

S = TypeVar("S", bound=Told | None)

_STRICT_WAIT_SECONDS = 1.0
_REFUND_WAIT_SECONDS = 20.0
_POLL_SECONDS = 0.02


class ChannelSales:
    """Sells on channels for one payee."""

    def __init__(
        self,
        *,
        books: ChannelBooks,
        funding: ChannelFunding,
        chain: Chain,
        settlement: Settlement,
    ) -> None:
        self._books = books
        self._funding = funding
        self._reads = chain
        self._settlement = settlement
        self._settings = books.settings
        self._chain = books.settings.asset.chain

    async def answer(self, payment: ChannelPayment, terms: Terms) -> Sale | Refusal:
        """
        Decide what a payment buys.

        Raises:
            ChainError: The chain could not be asked; nothing was decided.
            StoreUnavailable: Nothing was decided.
        """
        config, channel = payment.config, payment.channel
        wrong = self._wrong_terms(config, channel, payment.named)
        if wrong is not None:
            return self._books.refuse(terms, wrong)
        signed = await is_voucher_signed(
            self._reads, config, payment.cumulative, payment.signature
        )
        if not signed:
            return self._books.refuse(terms, "voucher_signature")
        call = ChannelRequest(
            config=config, channel=channel, terms=terms, payment=payment
        )
        if payment.refunds:
            return await self._refund(call)
        if payment.query and config.tagged:
            return await self._tell(call)
        if not payment.agreed:
            return await self._disagree(call)
        if payment.deposit is not None:
            return await self._fund_and_admit(call, payment.deposit)
        return await self._admit(call)

    # What is checked before any state is looked at.

    def _wrong_terms(
        self, config: ChannelConfig, channel: Hash32, named: Hash32
    ) -> str | None:
        ours = self._settings
        if channel != named:
            return "channel_id_mismatch"
        if config.token != ours.asset.address:
            return "token_mismatch"
        if config.receiver != ours.pay_to:
            return "receiver_mismatch"
        if config.receiver_authorizer != ours.authorizer:
            return "receiver_authorizer_mismatch"
        if config.withdraw_delay != ours.withdraw_delay:
            return "withdraw_delay_mismatch"
        return None

    # Admitting.

    async def _fund_and_admit(
        self, call: ChannelRequest, payload: DepositPayload
    ) -> Sale | Refusal:
        """
        Put a deposit on the chain, and admit the voucher that comes with it.

        A strict channel's voucher is looked at first, and its turn ends once it is
        admitted: what is refused with 402 has moved nothing (x402
        `scheme_batch_settlement_evm.md`, "Request Processing").
        """
        if call.config.tagged:
            refusal = await self._fund(call, payload)
            return refusal or await self._admit(call)
        until = asyncio.get_running_loop().time() + _STRICT_WAIT_SECONDS
        async with self._funding.turn(call.channel):
            refusal = await self._foresee(call, payload.deposit.amount, until=until)
            refusal = refusal or await self._funding.fund(call, payload)
            return refusal or await self._admit(call)

    async def _fund(
        self, call: ChannelRequest, payload: DepositPayload
    ) -> Refusal | None:
        async with self._funding.turn(call.channel):
            return await self._funding.fund(call, payload)

    async def _foresee(
        self, call: ChannelRequest, deposit: int, *, until: float
    ) -> Refusal | None:
        """What a voucher would be refused for, were its deposit there."""
        looked = False
        while (record := await self._funding.known(call)) is not None:
            ledger = record.ledger
            funded = evolve(ledger, balance=ledger.balance + deposit)
            said = payee_rules.apply(funded, self._books.presented(call)).answer
            if not isinstance(said, Refused):
                return None
            late = asyncio.get_running_loop().time() > until
            if said.reason == EXCEEDS_BALANCE and not looked:
                looked = True  # perhaps there is a deposit that we have not seen
                await self._settlement.see_chain(call.channel)
            elif said.reason != BUSY or late:
                return self._refused(record, call, said)
            else:
                await asyncio.sleep(_POLL_SECONDS)
        return None

    async def _admit(self, call: ChannelRequest) -> Sale | Refusal:
        terms = call.terms
        record, result = await self._admit_patiently(call, self._books.presented(call))
        if record is None:
            if not call.config.tagged and await self._open_known(call):
                return await self._admit(call)
            return self._books.refuse(terms, "channel_not_found")
        match result:
            case Admitted():
                return ChannelSale(self._books, call, result.reservation)
            case Spent():
                spent = self._spent(record, call, result)
                public = record.ledger.is_public(call.cumulative)
                answered = result.fate is Fate.CHARGED and not public
                return replace(spent, presented=call.key) if answered else spent
            case Refused():
                return self._refused(record, call, result)
            case _:
                raise InvariantViolated(f"a voucher was answered with {result}")

    async def _admit_patiently(
        self, call: ChannelRequest, event: VoucherVerified
    ) -> Told:
        """A strict channel is busy only briefly: wait before saying so (rule 7)."""
        books, durable = self._books, call.terms.reserves_durably
        deadline = asyncio.get_running_loop().time() + _STRICT_WAIT_SECONDS
        told = await self._whole(call, books.admit(call, event, durable=durable))
        if told is None:
            # Perhaps a deposit we have not seen yet: look before it is burnt.
            await self._settlement.see_chain(call.channel)
            told = await self._whole(call, books.update(call, event, durable=durable))
        while not call.config.tagged and _is_busy(told):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(_POLL_SECONDS)
            told = await self._whole(call, books.update(call, event, durable=durable))
        return told

    async def _whole(
        self, call: ChannelRequest, step: Coroutine[object, object, S]
    ) -> S:
        """The store goes on without whoever leaves: give back what it reserves."""
        return await take_whole(step, partial(self._give_back, call))

    async def _give_back(self, call: ChannelRequest, taken: Told | None) -> None:
        if taken is not None and isinstance(taken[1], Admitted):
            sale = ChannelSale(self._books, call, taken[1].reservation)
            give_back = partial(sale.abandon, charged=0, failed=True)
            await self._books.closings.close(give_back)

    async def _open_known(self, call: ChannelRequest) -> bool:
        """A strict channel that we forgot begins at what the chain says."""
        state = await read_channel(self._reads, call.channel)
        return state.balance > 0 and await self._funding.open_record(call)

    async def _disagree(self, call: ChannelRequest) -> Refusal:
        """Not our terms: say so finally, so that the payer may book nothing for it."""
        record, _ = await self._books.update(
            call, VoucherRefused(cumulative=call.cumulative)
        )
        receipt = None
        if record is not None and record.ledger.tagged:
            receipt = self._books.fate_receipt(record, call)
        return payment_required(
            self._settings,
            call.terms,
            error="No matching payment requirements",
            receipt=receipt,
        )

    async def _tell(self, call: ChannelRequest) -> Refusal:
        """Say what became of a voucher; a deposit that comes along is made first."""
        deposit = call.payment.deposit
        if deposit is not None and (no := await self._fund(call, deposit)) is not None:
            return no
        event = OutcomeAsked(cumulative=call.cumulative, owner=self._books.store.owner)
        record, result = await self._books.update(call, event)
        if record is None:
            return self._books.refuse(call.terms, "channel_not_found")
        if isinstance(result, Spent):
            return self._spent(record, call, result)
        if isinstance(result, Refused):
            return self._refused(record, call, result)
        fates = record.ledger.find_used(call.cumulative)
        charged = fates.charged if fates else 0
        return self._spent(record, call, Spent(fate=Fate.CHARGED, charged=charged))

    def _spent(
        self, record: PayeeRecord, call: ChannelRequest, spent: Spent
    ) -> Refusal:
        charged = spent.fate is Fate.CHARGED
        receipt = self._books.receipt(
            record,
            call,
            error=None if charged else ERROR_PREFIX + f"voucher_{spent.fate}",
            fate=spent.fate,
            charged=spent.charged,
            repeated=True,
        )
        if spent.fate in (Fate.CHARGED, Fate.RUNNING):
            return answer(
                409,
                title=f"This voucher is {spent.fate}",
                detail="it buys one request, and was presented before",
                receipt=receipt,
            )
        error = ERROR_PREFIX + f"voucher_{spent.fate}"
        return payment_required(
            self._settings, call.terms, error=error, receipt=receipt
        )

    def _refused(
        self, record: PayeeRecord, call: ChannelRequest, no: Refused
    ) -> Refusal:
        error = ERROR_PREFIX + no.reason
        corrective = None
        if no.reason == MISMATCH and may_correct(record.ledger, call.cumulative):
            corrective = corrective_extra(record)
        receipt = None
        if no.burnt or call.transaction:
            receipt = self._books.receipt(record, call, error=error, fate=Fate.VOID)
        return payment_required(
            self._settings,
            call.terms,
            error=error,
            receipt=receipt,
            corrective=corrective,
        )

    # Refunds.

    async def _refund(self, call: ChannelRequest) -> Refusal:
        event = RefundAsked(
            cumulative=call.cumulative,
            signature=call.payment.signature,
            owner=self._books.store.owner,
            part=call.payment.part,
        )
        record, result = await self._books.update(call, event)
        if record is None:
            return self._books.refuse(call.terms, "channel_not_found")
        if isinstance(result, Spent):
            return self._spent(record, call, result)
        if isinstance(result, Refused):
            return self._refused(record, call, result)
        if isinstance(result, PartGiven):
            return self._refunded(record, call, result.part)
        if not isinstance(result, Closing):
            raise InvariantViolated(f"a refund was answered with {result}")
        try:
            done = await self._finish_refund(call.channel)
        except ChainError as error:
            done, why = None, error.code
        else:
            why = "requests are still running, or others come first"
        if done is None:
            receipt = write.receipt(
                success=False,
                chain=self._chain,
                payer=call.config.payer,
                error="settlement_pending",
            )
            return answer(
                503,
                title="The refund is not done yet",
                detail=f"{why}; send the same request again",
                receipt=receipt,
                payment=call.key,
            )
        after, transaction, amount = done
        part = after.ledger.part
        if part is None or part.amount != call.payment.part:
            part = PartRefund(amount=amount, refunded=amount, transaction=transaction)
        return self._refunded(after, call, part)

    def _refunded(
        self, record: PayeeRecord, call: ChannelRequest, given: PartRefund
    ) -> Refusal:
        """How much came back; and how its channel stands, to who knows its total."""
        ledger, extra = record.ledger, None
        if ledger.tagged or ledger.charged == call.cumulative:
            extra = channel_extra(record, cumulative=0, charged=None)
        receipt = write.receipt(
            success=True,
            chain=self._chain,
            payer=call.config.payer,
            transaction=given.transaction,
            amount=str(given.refunded or 0),
            extra=extra,
        )
        headers = {
            "content-type": "application/json",
            "cache-control": "private",
            PAYMENT_RESPONSE.lower(): encode_json(receipt),
        }
        body = {"message": "Refund acknowledged", "channelId": call.channel}
        return Refusal(status=200, headers=headers, body=to_json(body))

    async def _finish_refund(
        self, channel: Hash32
    ) -> tuple[PayeeRecord, str, int] | None:
        deadline = asyncio.get_running_loop().time() + _REFUND_WAIT_SECONDS
        while True:
            done = await self._settlement.refund(channel)
            late = asyncio.get_running_loop().time() > deadline
            if done is not None or late:
                return done
            await asyncio.sleep(_POLL_SECONDS)


def _is_busy(told: Told) -> bool:
    return isinstance(told[1], Refused) and told[1].reason == BUSY
