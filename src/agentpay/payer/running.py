"""
A request that is paid for while its answer flows: what is signed ahead, and when.

Source: draft-evm-session-00, "Insufficient Balance During Streaming". A little is
signed ahead of what came in (`Policy.ahead`), so that content does not wait for a
voucher; how much came in is counted here, and not believed. What is signed and not
counted stays within the headroom, whatever a payee says.
"""

import asyncio
import logging
from dataclasses import replace

from agentpay.core.exchange import Next
from agentpay.errors import (
    AgentPayError,
    ChannelUnusable,
    MalformedMessage,
    PayeeMisbehaved,
    PaymentOutcomeUnknown,
)
from agentpay.payer.channel_kind import VoucherPayment
from agentpay.payer.channels import Channels
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Answer, Asker, Target
from agentpay.payer.policy import Policy
from agentpay.payer.session_offer import PER_REQUEST
from agentpay.payer.session_payment import SessionPayment
from agentpay.payer.session_signing import framed_in
from agentpay.records import session_config
from agentpay.types import UINT128_MAX, to_base_units
from agentpay.wire import parallel
from agentpay.wire.headers import JsonObject, encode_json
from agentpay.wire.mpp.evm_session import NeedVoucher, SessionRequest
from agentpay.wire.mpp.outcome import PAYMENT_VOUCHER, format_outcome
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT, format_receipt
from agentpay.wire.x402 import PAYMENT_RESPONSE, PAYMENT_SIGNATURE

_log = logging.getLogger(__name__)

_SEND_AGAIN_SECONDS = 0.1


class RunningRequest:
    """One request whose answer flows. Amounts are base units."""

    def __init__(
        self,
        payment: VoucherPayment,
        offer: Offer,
        target: Target,
        *,
        channels: Channels,
        ledger: PayerLedger,
        policy: Policy,
        ask: Asker,
    ) -> None:
        self._payment = payment
        self._offer = offer
        self._target = target
        self._channels = channels
        self._ledger = ledger
        self._give_up_seconds = policy.give_up_seconds
        self._ask = ask
        decimals = offer.asset.decimals
        headroom = payment.record.ledger.headroom
        self._ahead = min(to_base_units(policy.ahead, decimals), headroom)
        ticket = payment.record.ledger.ticket(payment.cumulative)
        self.maximum = ticket.maximum if ticket is not None else offer.amount
        """What it may cost as things stand."""
        self.counted = 0
        """What came in of it is worth, by our own count."""
        self._units = 0
        self.charged: int | None = None
        """What it cost; None until its last event says so."""
        self.vouchers = 1
        """How many were signed for it."""
        self.ahead_most = self.maximum
        """The most that was ever signed for it and not counted."""
        self._price, self._per, self._limit = _terms(payment, offer)
        self._signed = payment.cumulative
        self._raising: asyncio.Task[bool] | None = None
        self._holds_back = not isinstance(payment, SessionPayment)

    @property
    def id(self) -> str:
        """What its payment is called."""
        return self._payment.id

    def came(self, units: int) -> None:
        """So much more came in; what is signed ahead is filled up in the background."""
        if not self._price:
            return
        self._units += units
        self.counted = -(-self._units * self._price // self._per)
        rests = self._holds_back or self._raising is not None
        if not rests and self.maximum - self.counted < self._ahead // 2:
            self._raising = asyncio.create_task(
                self._fill_up(), name=f"sign ahead for {self.id}"
            )

    async def _fill_up(self) -> bool:
        try:
            return await self._raise(self._wanted())
        except AgentPayError as error:
            self._holds_back = True  # until the payee asks: then its caller is told
            _log.debug("nothing is signed ahead for %s: %s", self.id, error)
            return False
        finally:
            self._raising = None

    def _wanted(self) -> int:
        """How much more it should be let cost, by our own count."""
        more = self.counted + self._ahead - self.maximum
        return max(1, min(more, self._limit - self.maximum))

    async def asked(self, need: NeedVoucher) -> None:
        """
        The payee serves no more before it has a voucher: sign one, or say why not.

        Raises:
            BudgetExceeded: Our budget ends here.
            ChannelUnusable: It asks for more than our policy lets it.
            PaymentOutcomeUnknown: It did not answer to the voucher.
            PayeeMisbehaved: Its answer contradicts our books.
        """
        if not isinstance(self._payment, SessionPayment):
            return  # whoever is paid by x402 cannot ask
        if need.channel_id != self._payment.record.channel:
            raise PayeeMisbehaved(f"{self.id}: it asks for vouchers of another session")
        if self._raising is not None:
            await asyncio.wait((self._raising,))
        late = need.accepted_cumulative < self._signed
        enough = self._price > 0 and self.counted < self.maximum
        if need.required_cumulative <= self._signed and (late or enough):
            return  # it asked before it had what we signed since
        if not self._price:
            self.counted = self.maximum  # nobody says what is counted: its own word
        deadline = self._now() + self._give_up_seconds
        while True:
            change = self._ledger.change(self._target.origin)
            if await self._raise(await self._least(need)):
                return
            if await self._is_alone() or not await change.wait(deadline - self._now()):
                raise ChannelUnusable(
                    f"{self.id}: {self.counted} of it was counted, and the payee asks"
                    f" for more than the {self.maximum} signed for it; our headroom"
                    " ends here. If it counts more than one unit an event, say how:"
                    " agent.stream_paid(..., count=...)"
                )

    async def _least(self, need: NeedVoucher) -> int:
        """What lets it go on, and a little ahead where our count allows it."""
        left = self._limit - self.maximum
        if left <= 0:
            raise ChannelUnusable(f"{self.id} may cost {self._limit} at most")
        now = await self._ledger.read(self._payment.record.channel)
        books = now.ledger if now is not None else self._payment.record.ledger
        least = need.required_cumulative - books.spent - books.outstanding
        return min(max(least, self._wanted()), left)

    async def _is_alone(self) -> bool:
        """Whether no other request holds any of the headroom."""
        now = await self._ledger.read(self._payment.record.channel)
        return now is None or len(now.ledger.open) <= 1

    # Signing.

    async def _raise(self, more: int) -> bool:
        """Sign for more, and have the payee take it; False if it cannot be now."""
        signed = await self._channels.raise_for(
            self._payment,
            self._offer,
            self._target,
            more=more,
            delivered=min(self.counted, self.maximum),
        )
        if not isinstance(signed, SessionPayment):
            return False
        self.maximum += more
        self.vouchers += 1
        self._signed = max(self._signed, signed.cumulative)
        self.ahead_most = max(self.ahead_most, self.maximum - self.counted)
        named = (self._payment.cumulative, self.maximum)
        return await self._send(replace(signed, raises=named))

    async def _send(self, signed: SessionPayment) -> bool:
        """
        Have the payee take a voucher; False if it never will.

        Raises:
            PaymentOutcomeUnknown: It does not answer.
        """
        deadline, url = self._now() + self._give_up_seconds, self._target.url
        closed = False
        try:
            while self._now() < deadline:
                answer = await self._ask(
                    "HEAD", url, signed.credential, field=signed.header
                )
                if answer is not None:
                    judged = await signed.book(answer, resent=False)
                    if judged.final or judged.next is Next.REJECTED:
                        closed = True
                        return judged.next in (Next.DELIVER, Next.LOST)
                    if judged.next is Next.RENEW:
                        signed = self._renewed(signed, answer)
                await asyncio.sleep(_SEND_AGAIN_SECONDS)
            raise PaymentOutcomeUnknown(signed.id, "no answer to a voucher")
        finally:
            if not closed:
                await signed.leave_open()

    def _renewed(self, signed: SessionPayment, answer: Answer) -> SessionPayment:
        """The same voucher, under the challenge of an answer: ours was over."""
        fresh = framed_in(answer, session_config(signed.record))
        if fresh is None or self._offer.mpp is None:
            return signed
        terms = replace(self._offer.mpp, challenge=fresh)
        self._offer = replace(self._offer, mpp=terms)
        return signed.under(fresh)

    # Ending.

    async def over(self, said: JsonObject) -> None:
        """
        Book the last event of its answer, which says what it cost.

        Raises:
            PayeeMisbehaved: It contradicts our books.
        """
        await self._rest()
        answer = last_answer(self._payment, said)
        if answer is None:
            return
        judged = await self._payment.book(answer, resent=False)
        if judged.final:
            self.charged = judged.charged
        if judged.final and self._price and judged.charged > self.counted:
            _log.warning(
                "%s cost %d, and we count %d", self.id, judged.charged, self.counted
            )

    async def end(self) -> None:
        """It is over: what no event told is asked."""
        await self._rest()
        if self.charged is None:
            await self._channels.inquiry.ask_later(self._payment)

    async def _rest(self) -> None:
        """Nothing more is signed for it."""
        self._holds_back = True
        if self._raising is not None:
            await asyncio.wait((self._raising,))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _terms(payment: VoucherPayment, offer: Offer) -> tuple[int, int, int]:
    """The price of so many units (0: nothing is counted), and the most it may cost."""
    asked = offer.mpp.request if offer.mpp is not None else None
    if not isinstance(payment, SessionPayment) or not isinstance(asked, SessionRequest):
        return 0, 1, offer.amount
    if asked.unit_type == PER_REQUEST:
        return 0, 1, max(asked.amount, offer.amount)
    per, _, unit = (asked.unit_type or "").partition(" ")
    many = unit and per.isascii() and per.isdecimal() and len(per) < 10 and int(per)
    return asked.amount, int(per) if many else 1, UINT128_MAX


def last_answer(payment: VoucherPayment, said: JsonObject) -> Answer | None:
    """What the last event of a stream says, as an answer; None if that is nothing."""
    try:
        if payment.header == PAYMENT_SIGNATURE:
            headers = {PAYMENT_RESPONSE.lower(): encode_json(said)}
            return Answer(status=200, headers=headers)
        headers = {PAYMENT_RECEIPT.lower(): format_receipt(said)}
        outcome = said.get(parallel.KEY)
        if isinstance(outcome, dict):
            channel = str(payment.record.channel)
            named = format_outcome({"channelId": channel, **outcome})
            headers[PAYMENT_VOUCHER.lower()] = named
    except (MalformedMessage, ValueError):
        return None
    return Answer(status=200, headers=headers)
