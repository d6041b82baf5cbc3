"""
Sells requests on sessions of MPP: checks, funds, admits, takes vouchers, closes.

Source: draft-evm-session-00, "Credential Schema" and "Verification Procedure"; the
ledger's rules are in `core.session_rules`. Challenge and signature come before state:
nobody learns anything of a session, or changes it, without its payer's signature.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256

from agentpay.core.payee_channel import Fate
from agentpay.core.payee_events import (
    BUSY,
    CLOSING,
    EXCEEDS_BALANCE,
    MISMATCH,
    NOT_COVERED,
    Admitted,
    Answer,
    Noted,
    OwnersDied,
    Refused,
    Spent,
    VoucherVerified,
)
from agentpay.core.session_rules import LOWER, Raises, VoucherRaised
from agentpay.errors import InvariantViolated, MalformedMessage
from agentpay.evm.session_escrow import SessionConfig
from agentpay.payee.answers import Answers, request_of
from agentpay.payee.mpp_offers import UNKNOWN, Asked, MppTerms, problem
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Refusal, Sale
from agentpay.payee.session_books import SessionBooks, SessionCall, fate_of
from agentpay.payee.session_closing import SessionClosing
from agentpay.payee.session_funding import SessionFunding
from agentpay.payee.session_reading import Presented, SessionReading
from agentpay.payee.session_sale import SessionSale
from agentpay.payee.waiting import LOOK_SECONDS
from agentpay.records import PayeeRecord
from agentpay.types import Hash32
from agentpay.whole_steps import take_whole
from agentpay.wire.mpp.binding import EchoFault
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.credential import Credential
from agentpay.wire.mpp.evm_session import (
    ClosePayload,
    SessionPayload,
    TopUpPayload,
    VoucherPayload,
)
from agentpay.wire.mpp.problem import ProblemKind

_STRICT_WAIT_SECONDS = 1.0
_KINDS = {
    EXCEEDS_BALANCE: ProblemKind.AMOUNT_EXCEEDS_DEPOSIT,
    NOT_COVERED: ProblemKind.INSUFFICIENT_BALANCE,
    CLOSING: ProblemKind.CHANNEL_FINALIZED,
}


class SessionSales:
    """Sells on sessions for one payee."""

    def __init__(
        self,
        *,
        books: SessionBooks,
        mpp: MppTerms,
        funding: SessionFunding,
        closing: SessionClosing,
        answers: Answers,
    ) -> None:
        self._books = books
        self._settings = books.settings
        self._reading = SessionReading(settings=books.settings, mpp=mpp)
        self._funding = funding
        self._closing = closing
        self._answers = answers

    async def answer(
        self, credential: Credential, choices: Sequence[Terms], asked: Asked
    ) -> Sale | Refusal:
        """
        Decide what a credential buys; `choices` are the routes that it may be for.

        Raises:
            ChainError, StoreUnavailable: Nothing was decided.
        """
        echo = credential.challenge
        terms, fault = self._reading.route_of(echo, choices, now=self._books.now())
        if fault not in (None, EchoFault.EXPIRED):
            return self._no_challenge(echo, terms, fault)
        try:
            late = fault is not None
            presented = self._reading.read(credential, terms, asked, late=late)
        except MalformedMessage as error:
            return self._problem(
                echo, terms, ProblemKind.MALFORMED_CREDENTIAL, str(error), status=400
            )
        call = await self._call(presented)
        if call is None:
            kind = ProblemKind.CHANNEL_NOT_FOUND
            detail = "no such session is open here: open another, with another salt"
            return self._problem(echo, terms, kind, detail, channel=presented.channel)
        if isinstance(presented.payload, TopUpPayload):
            if presented.late:
                return self._no_challenge(echo, terms, fault)
            return await self._funding.top_up(call, presented.payload, presented.source)
        return await self._with_voucher(call, presented)

    async def _call(self, presented: Presented) -> SessionCall | None:
        """The session that is spoken of; None if we know none of that id."""
        config = presented.opens
        if config is None:
            record = await self._books.store.read(presented.channel)
            if record is None or not isinstance(record.config, SessionConfig):
                return None
            config = record.config
            if not self._reading.is_ours(config):
                return None
        cumulative, signature = presented.voucher
        return SessionCall(
            config=config,
            channel=presented.channel,
            terms=presented.terms,
            challenge=presented.echo.id,
            cumulative=cumulative,
            signature=signature,
            content=presented.content,
        )

    # What is done for who has signed a voucher.

    async def _with_voucher(
        self, call: SessionCall, presented: Presented
    ) -> Sale | Refusal:
        payload, terms = presented.payload, presented.terms
        kind = call.fault()
        if kind is not None:
            detail = "the voucher is not signed by the signer of its session"
            return self._books.refuse(call, kind, detail)
        if presented.late and not await self._is_taken(call):
            over = self._no_challenge(presented.echo, terms, EchoFault.EXPIRED)
            return await self._told_again(call, replace(over, presented=call.key))
        if isinstance(payload, ClosePayload):
            return await self._closing.close(call)
        if presented.deposit is not None:
            refusal = await self._funding.fund(call, presented.deposit)
            if refusal is not None:
                return refusal
        covers = call.cumulative >= terms.first
        if not call.content or not (covers or isinstance(payload, VoucherPayload)):
            return await self._raise(call, _raises_of(payload, terms))
        return await self._told_again(call, await self._sell(call, presented.name))

    async def _is_taken(self, call: SessionCall) -> bool:
        """Whether its voucher was presented in time: then it is answered for ever."""
        record = await self._books.look(call)
        if record is None:
            return False
        ledger = record.ledger
        if ledger.closing_voucher == call.cumulative:
            return True
        used = ledger.find_used(call.cumulative) is not None
        return ledger.tagged and (used or call.cumulative <= ledger.floor)

    async def _sell(self, call: SessionCall, name: str | None) -> Sale | Refusal:
        """By the draft's "Request Idempotency", a named request is charged once."""
        if name is None:
            return await self._admit(call)
        key = f"{call.channel} {call.challenge} {name}"
        digest = sha256(call.key.encode()).digest()
        admit = partial(self._admit, call)
        tagged = call.config.tagged
        return await self._answers.once(key, digest, call.terms, admit, again=tagged)

    async def _told_again(
        self, call: SessionCall, outcome: Sale | Refusal
    ) -> Sale | Refusal:
        if not isinstance(outcome, Refusal) or not outcome.presented:
            return outcome
        record, request = await self._books.look(call), request_of(call.terms)
        if record is None or record.ledger.is_public(call.cumulative):
            return outcome
        earlier = await self._answers.find(outcome.presented, request)
        return replace(outcome, earlier=earlier)

    async def _admit(self, call: SessionCall) -> Sale | Refusal:
        terms = call.terms
        event = VoucherVerified(
            cumulative=call.cumulative,
            signature=call.signature,
            maximum=terms.first,
            prepaid=not terms.metered,
            owner=self._books.store.owner,
            resource=terms.resource,
            exposure_max=self._settings.exposure_max,
        )
        record, result = await self._patiently(call, event)
        if record is None:
            raise InvariantViolated(f"session {call.channel} is forgotten")
        match result:
            case Admitted():
                return SessionSale(self._books, call, result.reservation)
            case Spent():
                return self._spent(record, call, result)
            case Refused():
                return self._refused(record, call, result)
            case _:
                raise InvariantViolated(f"a voucher was answered with {result}")

    async def _patiently(
        self, call: SessionCall, event: VoucherVerified
    ) -> tuple[PayeeRecord | None, Answer]:
        """A session that is not tagged is busy only briefly: wait before saying so."""
        durable = call.terms.reserves_durably
        deadline = asyncio.get_running_loop().time() + _STRICT_WAIT_SECONDS
        await self._funding.look_if_above(call)
        while True:

            async def give_back(taken: tuple[PayeeRecord | None, Answer]) -> None:
                if isinstance(taken[1], Admitted):
                    sale = SessionSale(self._books, call, taken[1].reservation)
                    undo = partial(sale.abandon, charged=0, failed=True)
                    await self._books.closings.close(undo)

            step = self._books.update(call, event, durable=durable)
            record, result = await take_whole(step, give_back)
            busy = isinstance(result, Refused) and result.reason == BUSY
            left = deadline - asyncio.get_running_loop().time()
            if not busy or call.config.tagged or left <= 0:
                return record, result
            seconds = min(left, LOOK_SECONDS)
            await self._books.changed.wait(call.channel, seconds=seconds)

    async def _raise(self, call: SessionCall, raises: Raises | None) -> Refusal:
        """Take a voucher that comes without a request, or say what became of it."""
        await self._funding.look_if_above(call)
        event = VoucherRaised(
            cumulative=call.cumulative,
            signature=call.signature,
            raises=raises,
            exposure_max=self._settings.exposure_max,
        )
        record, result = await self._books.update(call, event)
        if record is not None and self._is_left_behind(record, call):
            died = OwnersDied(owner=self._books.store.owner)
            record, result = await self._books.update(call, died)
        if record is None:
            raise InvariantViolated(f"session {call.channel} is forgotten")
        if isinstance(result, Refused):
            return self._refused(record, call, result)
        if not isinstance(result, Noted):
            raise InvariantViolated(f"a voucher was answered with {result}")
        fate, charged = fate_of(record.ledger, call.cumulative)
        outcome = self._books.outcome(record, call, fate, charged)
        return self._books.taken(record, call, outcome=outcome)

    def _is_left_behind(self, record: PayeeRecord, call: SessionCall) -> bool:
        """Whether what runs on its voucher belongs to a dead owner."""
        running = record.ledger.reservation(call.cumulative)
        owner = self._books.store.owner
        return running is not None and record.ledger.is_dead(running, owner)

    # What is said when nothing is sold.

    def _spent(self, record: PayeeRecord, call: SessionCall, spent: Spent) -> Refusal:
        outcome = self._books.outcome(
            record, call, spent.fate, spent.charged, repeated=True
        )
        detail = f"the voucher of {call.cumulative} is {spent.fate}"
        if spent.fate in (Fate.VOID, Fate.OLD):
            kind = ProblemKind.VERIFICATION_FAILED
            return self._books.refuse(
                call, kind, detail, record=record, outcome=outcome
            )
        if spent.fate is Fate.RUNNING:
            outcome = {**outcome, "retry-after": "1"}
        refusal = self._books.refuse(
            call,
            ProblemKind.CREDENTIAL_REPLAYED,
            f"{detail}: it buys one request, and was presented before",
            status=409,
            record=record,
            outcome=outcome,
        )
        charged = spent.fate is Fate.CHARGED
        return replace(refusal, presented=call.key) if charged else refusal

    def _refused(self, record: PayeeRecord, call: SessionCall, no: Refused) -> Refusal:
        ledger, books = record.ledger, self._books
        if no.reason in (LOWER, MISMATCH):
            # The draft: 200 and no change. Perhaps it was answered: then it is again.
            return replace(books.taken(record, call), presented=call.key)
        if no.reason == BUSY and not ledger.tagged:
            detail = "another request runs on this session: send the same again"
            return books.refuse(call, UNKNOWN, detail, record=record, status=503)
        required = None
        if no.reason == NOT_COVERED:
            required = ledger.charged + ledger.reserved + call.terms.first
        refusal = books.refuse(
            call,
            _KINDS.get(no.reason, ProblemKind.VERIFICATION_FAILED),
            _why(no.reason, record),
            record=record,
            required=required,
            outcome=books.outcome(record, call, Fate.VOID) if no.burnt else None,
        )
        return refusal if ledger.tagged else replace(refusal, presented=call.key)

    def _no_challenge(
        self, echo: Challenge, terms: Terms, fault: EchoFault | None
    ) -> Refusal:
        detail = f"the challenge is not one for this request: {fault}"
        return self._problem(echo, terms, ProblemKind.CHALLENGE_NOT_FOUND, detail)

    def _problem(
        self,
        echo: Challenge,
        terms: Terms,
        kind: ProblemKind,
        detail: str,
        *,
        status: int | None = None,
        channel: Hash32 | None = None,
    ) -> Refusal:
        return problem(
            self._settings,
            terms,
            kind,
            detail,
            status=status,
            challenge_id=echo.id,
            channel_id=channel,
        )


def _raises_of(payload: SessionPayload, terms: Terms) -> Raises | None:
    """The running request that a voucher is for: never above its route's price."""
    if not isinstance(payload, VoucherPayload) or payload.raises is None:
        return None
    raises = payload.raises
    return Raises(
        cumulative=raises.cumulative, maximum=min(raises.maximum, terms.maximum)
    )


def _why(reason: str, record: PayeeRecord) -> str:
    if reason == EXCEEDS_BALANCE and record.ledger.pending_withdrawal:
        return f"{reason}: its payer has asked the contract to close the session"
    return reason
