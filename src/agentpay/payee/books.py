"""
A payee's books of one channel request: the ledger it moves and the receipts it gives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from agentpay.core import payee_rules
from agentpay.core.payee_channel import Fate, PayeeChannel
from agentpay.core.payee_events import (
    Answer,
    Delivered,
    Event,
    LeaseLost,
    Noted,
    VoucherVerified,
)
from agentpay.core.payee_rules import Transition
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.payee.answers import voucher_key
from agentpay.payee.closings import Closings
from agentpay.payee.offers import (
    ERROR_PREFIX,
    PayeeSettings,
    channel_extra,
    payment_required,
)
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Refusal
from agentpay.ports import PayeeStore
from agentpay.records import AnswerRecord, PayeeRecord, PayeeStep
from agentpay.types import Hash32
from agentpay.wire import parallel
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject, encode_json
from agentpay.wire.x402 import DepositPayload, Extension
from agentpay.wire.x402_receipt import charged_voucher

E = TypeVar("E")

Told = tuple[PayeeRecord | None, Answer]
"""A channel after an event, and what the ledger answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPayment:
    """A channel payment whose message was read, and nothing else of it checked."""

    config: ChannelConfig
    channel: Hash32
    """The id that these terms have."""
    named: Hash32
    """The id that its voucher is for."""
    cumulative: int
    signature: bytes
    agreed: bool
    """Whether it accepted exactly what this route offers."""
    query: bool
    """Whether it only asks what became of a voucher."""
    extensions: Mapping[str, Extension]
    deposit: DepositPayload | None = None
    """The whole message, where it funds its channel."""
    refunds: bool = False
    """Whether it asks for what is left."""
    part: int | None = None
    """How much of that, where it does not ask for all."""


@dataclass(slots=True, kw_only=True)
class ChannelRequest:
    """One request on a channel, as it goes through the checks."""

    config: ChannelConfig
    channel: Hash32
    terms: Terms
    payment: ChannelPayment
    transaction: str = ""
    deposited: int = 0

    @property
    def cumulative(self) -> int:
        return self.payment.cumulative

    @property
    def key(self) -> str:
        """What its payer signed: it buys one answer."""
        return voucher_key(self.channel, self.cumulative)


class ChannelBooks:
    """Moves ledgers by events, and says in receipts what became of them."""

    def __init__(
        self,
        *,
        settings: PayeeSettings,
        store: PayeeStore,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.store = store
        self.closings = Closings()
        self._clock = clock

    def now(self) -> int:
        return int(self._clock())

    def refuse(self, terms: Terms, code: str) -> Refusal:
        return payment_required(self.settings, terms, error=ERROR_PREFIX + code)

    def presented(self, call: ChannelRequest) -> VoucherVerified:
        """Its voucher, as the ledger hears of it."""
        return VoucherVerified(
            cumulative=call.cumulative,
            signature=call.payment.signature,
            maximum=call.terms.maximum,
            prepaid=not call.terms.metered,
            owner=self.store.owner,
            resource=call.terms.resource,
            exposure_max=self.settings.exposure_max,
        )

    def fate_receipt(self, record: PayeeRecord, call: ChannelRequest) -> JsonObject:
        used = record.ledger.find_used(call.cumulative)
        fate = used.fate if used else Fate.OLD
        error = ERROR_PREFIX + "terms_mismatch"
        charged = used.charged if used else 0
        return self.receipt(record, call, error=error, fate=fate, charged=charged)

    def receipt(
        self,
        record: PayeeRecord | None,
        call: ChannelRequest,
        *,
        error: str | None = None,
        fate: Fate = Fate.CHARGED,
        charged: int = 0,
        repeated: bool = False,
    ) -> JsonObject:
        """
        What becomes of a voucher, and how its channel stands: of one that was presented
        before and is on the chain, only the first.
        """
        extra: JsonObject | None = None
        extensions: JsonObject | None = None
        if record is not None:
            before = repeated or error is not None
            if not (before and record.ledger.is_public(call.cumulative)):
                extra = channel_extra(
                    record,
                    cumulative=call.cumulative,
                    charged=charged if error is None else None,
                )
            if record.ledger.tagged:
                extensions = parallel.outcome(
                    call.cumulative, fate, charged, repeated=repeated
                )
        return write.receipt(
            success=error is None,
            chain=self.settings.asset.chain,
            payer=call.config.payer,
            transaction=call.transaction,
            amount=str(call.deposited) if call.deposited else "",
            error=error,
            extra=extra,
            extensions=extensions,
        )

    def charged(self, record: PayeeRecord, call: ChannelRequest, charged: int) -> str:
        """The receipt of a request that was charged, as a header."""
        if call.transaction or call.deposited:
            return encode_json(self.receipt(record, call, charged=charged))
        ledger, cumulative = record.ledger, call.cumulative
        return charged_voucher(
            channel=record.channel,
            chain=self.settings.asset.chain,
            payer=call.config.payer,
            balance=ledger.balance,
            claimed=ledger.claimed,
            withdraw_requested_at=record.withdrawal_started,
            refund_nonce=record.refund_nonce,
            total=ledger.receipt_total(cumulative),
            charged=charged,
            cumulative=cumulative if ledger.tagged else None,
        )

    async def update(
        self,
        call: ChannelRequest,
        event: Event,
        *,
        durable: bool = True,
        unsaved: Callable[[], None] | None = None,
    ) -> Told:
        """Move a ledger by an event; `unsaved` is as of `PayeeStep`."""
        rules = payee_rules.apply
        decide = partial(move, rules, event, self.now(), unsaved=unsaved)
        return await self.store.update(call.channel, decide, durable=durable)

    async def admit(
        self, call: ChannelRequest, event: VoucherVerified, *, durable: bool
    ) -> Told | None:
        """
        Move a ledger by a voucher; None where that is for more than we think that its
        channel holds, and nothing happened.
        """
        decide = partial(_move_if_covered, event, self.now())
        return await self.store.update(call.channel, decide, durable=durable)

    async def deliver(
        self,
        call: ChannelRequest,
        event: Delivered,
        answer: Callable[[str], AnswerRecord],
        *,
        unsaved: Callable[[], None],
    ) -> AnswerRecord | None:
        """
        Close a request at its fixed price, and keep what `answer` makes of its receipt.

        None where it is not ours any more, and nothing happened.
        """
        close = partial(move, payee_rules.apply, event, self.now(), unsaved=unsaved)
        decide = partial(self._kept, close, call, answer)
        return await self.store.update(call.channel, decide, durable=False)

    def _kept(
        self,
        close: Callable[[PayeeRecord | None], PayeeStep[Told]],
        call: ChannelRequest,
        answer: Callable[[str], AnswerRecord],
        record: PayeeRecord | None,
    ) -> PayeeStep[AnswerRecord | None]:
        step = close(record)
        after, told = step.answer
        if after is None or not isinstance(told, Noted):
            return PayeeStep(record=step.record, answer=None)
        kept = answer(self.charged(after, call, told.charged))
        return PayeeStep(
            record=after,
            answer=kept,
            touched=step.touched,
            unsaved=step.unsaved,
            kept=kept,
        )


# Not closures: what those are annotated with is made anew by each request.


def _move_if_covered(
    event: VoucherVerified, now: int, record: PayeeRecord | None
) -> PayeeStep[Told | None]:
    if record is not None and event.cumulative > record.ledger.spendable:
        return PayeeStep(record=record, answer=None)
    return move(payee_rules.apply, event, now, record)


def move(
    rules: Callable[[PayeeChannel, E], Transition],
    event: E,
    now: int,
    record: PayeeRecord | None,
    *,
    unsaved: Callable[[], None] | None = None,
) -> PayeeStep[Told]:
    """A step of a ledger by these rules; without a record nothing happens."""
    if record is None:
        return PayeeStep(record=None, answer=(None, LeaseLost()))
    transition = rules(record.ledger, event)
    after = record
    if transition.channel is not record.ledger:
        after = record.moved(transition.channel, at=now)
    return PayeeStep(
        record=after,
        answer=(after, transition.answer),
        touched=transition.touched,
        unsaved=unsaved,
    )
