"""
A payee's books of one session: the ledger it moves, and what is said of it.

Source: draft-evm-session-00, "Server-Side Accounting", "Receipt Generation" and "Error
Responses". What is said here is said to who has proven to be its payer: by a voucher
that the chain shows nobody does, and is told what became of that one voucher.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from agentpay.core import session_rules
from agentpay.core.payee_channel import Fate, PayeeChannel
from agentpay.core.payee_events import Delivered, GivenBack
from agentpay.core.session_rules import SessionEvent, VoucherRaised
from agentpay.evm.session_escrow import SessionConfig, voucher_digest
from agentpay.evm.signature import BadSignature, recover
from agentpay.payee.answers import voucher_key
from agentpay.payee.books import Told, move
from agentpay.payee.closings import Closings
from agentpay.payee.mpp_offers import problem
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Refusal
from agentpay.payee.waiting import Waiting
from agentpay.ports import PayeeStore
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.types import Hash32
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.outcome import (
    PAYMENT_VOUCHER,
    format_outcome,
    session_outcome,
)
from agentpay.wire.mpp.problem import Books, ProblemKind
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT, format_receipt, session_receipt


@dataclass(slots=True, kw_only=True)
class SessionCall:
    """One request on a session, as it goes through the checks."""

    config: SessionConfig
    channel: Hash32
    terms: Terms
    challenge: str
    """The id of the challenge that it answers."""
    cumulative: int = 0
    signature: bytes = b""
    """Of the voucher; a top-up has none."""
    content: bool = True
    """Whether it wants more than its voucher to be taken."""
    transaction: Hash32 | None = None
    """What was put on the chain for it."""

    @property
    def key(self) -> str:
        """What its payer signed: it buys one answer."""
        return voucher_key(self.channel, self.cumulative)

    def fault(self) -> ProblemKind | None:
        """
        What is wrong with its voucher's signature.

        Only keys sign vouchers: what a contract signs it may take back, so a contract
        names a key as its `authorizedSigner` (the draft's recommendation).
        """
        digest = voucher_digest(self.channel, self.cumulative, self.config.escrow)
        try:
            signer = recover(digest, self.signature)
        except BadSignature:
            return ProblemKind.INVALID_SIGNATURE
        wanted = self.config.terms.signer
        return None if signer == wanted else ProblemKind.SIGNER_MISMATCH


class SessionBooks:
    """Moves ledgers by events, and says what became of them."""

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
        self.changed = Waiting()
        """Streams that wait for a voucher, and who waits for what runs to end."""
        self._clock = clock

    def now(self) -> int:
        return int(self._clock())

    async def update(
        self,
        call: SessionCall,
        event: SessionEvent,
        *,
        durable: bool = True,
        unsaved: Callable[[], None] | None = None,
    ) -> Told:
        """
        One step of a session's ledger; without a record nothing happens.

        `unsaved` is as of `PayeeStep`.
        """
        rules = session_rules.apply
        decide = partial(move, rules, event, self.now(), unsaved=unsaved)
        done = await self.store.update(call.channel, decide, durable=durable)
        if isinstance(event, VoucherRaised | Delivered | GivenBack):
            self.changed.wake(call.channel)
        return done

    async def look(self, call: SessionCall) -> PayeeRecord | None:
        """The session as the last caller left it."""

        def decide(record: PayeeRecord | None) -> PayeeStep[PayeeRecord | None]:
            return PayeeStep(record=record, answer=record)

        return await self.store.update(call.channel, decide, durable=False)

    # What is said.

    def receipt(
        self, record: PayeeRecord, call: SessionCall, *, units: int | None
    ) -> str:
        """A receipt, for a header."""
        return format_receipt(self.receipt_of(record, call, units=units))

    def receipt_of(
        self, record: PayeeRecord, call: SessionCall, *, units: int | None
    ) -> JsonObject:
        """A receipt: only what is final counts as spent (`receipt_total`)."""
        return session_receipt(
            challenge_id=call.challenge,
            chain=record.chain,
            channel=call.channel,
            accepted=record.ledger.highest,
            spent=record.ledger.receipt_total(call.cumulative),
            at=self.now(),
            units=units,
            transaction=call.transaction,
        )

    def outcome(
        self,
        record: PayeeRecord,
        call: SessionCall,
        fate: Fate,
        charged: int = 0,
        *,
        repeated: bool = False,
    ) -> Mapping[str, str]:
        """What became of a voucher, in a header of its own; of tagged sessions only."""
        ledger = record.ledger
        if not ledger.tagged:
            return {}
        public = ledger.is_public(call.cumulative)
        said = session_outcome(
            call.channel,
            call.cumulative,
            fate,
            charged=charged,
            spent=None if public else ledger.receipt_total(call.cumulative),
            repeated=repeated,
        )
        return {PAYMENT_VOUCHER.lower(): format_outcome(said)}

    def taken(
        self,
        record: PayeeRecord,
        call: SessionCall,
        *,
        outcome: Mapping[str, str] | None = None,
        proven: bool = False,
    ) -> Refusal:
        """
        200 and no content: it was taken, and bought nothing.

        With a receipt, if the voucher proves its payer, or something else has `proven`
        it.
        """
        headers = {"cache-control": "private", **(outcome or {})}
        if proven or not record.ledger.is_public(call.cumulative):
            headers[PAYMENT_RECEIPT.lower()] = self.receipt(record, call, units=0)
        return Refusal(status=200, headers=headers, body=b"")

    def refuse(
        self,
        call: SessionCall,
        kind: ProblemKind,
        detail: str,
        *,
        record: PayeeRecord | None = None,
        status: int | None = None,
        required: int | None = None,
        outcome: Mapping[str, str] | None = None,
    ) -> Refusal:
        """
        A problem of a session; with a `record`, it says how that stands to who proves
        by the voucher to be its payer.

        What may change by waiting (503, 409 of a request that runs) says to come again.
        """
        books = None
        if record is not None and not record.ledger.is_public(call.cumulative):
            ledger = record.ledger
            books = Books(
                accepted=ledger.highest,
                spent=ledger.receipt_total(call.cumulative),
                deposit=ledger.spendable,
                required=required,
            )
        refusal = problem(
            self.settings,
            call.terms,
            kind,
            detail,
            status=status,
            challenge_id=call.challenge,
            channel_id=call.channel,
            books=books,
        )
        return replace(refusal, headers={**refusal.headers, **(outcome or {})})


def fate_of(ledger: PayeeChannel, cumulative: int) -> tuple[Fate, int]:
    """What became of an amount of a tagged session that was presented before."""
    used, running = ledger.find_used(cumulative), ledger.reservation(cumulative)
    if used is None:
        return Fate.OLD, 0
    return used.fate, running.charged if running else used.charged
