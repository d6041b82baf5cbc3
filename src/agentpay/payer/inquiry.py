"""
What was left open: vouchers without a final answer, deposits that nobody carries.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from agentpay.core.budget import Released, Spent
from agentpay.core.exchange import Next
from agentpay.core.payer_channel import (
    DepositArrived,
    DepositLapsed,
    PendingDeposit,
    TicketVoid,
)
from agentpay.errors import (
    AgentPayError,
    ChainError,
    ChannelUnusable,
    PaymentOutcomeUnknown,
    StoreClosed,
    StoreOutcomeUnknown,
    StoreUnavailable,
)
from agentpay.evm.deposit import SignedDeposit
from agentpay.onchain import is_used
from agentpay.payer.attempts import Attempts
from agentpay.payer.channel_key import asset_in, is_lane
from agentpay.payer.channel_kind import ChannelKind, VoucherPayment
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.ledger_steps import Place
from agentpay.payer.left_vouchers import LeftVouchers
from agentpay.payer.payment import Asker, Target
from agentpay.payer.policy import Policy, scale
from agentpay.payer.underway import Whereabouts, ended, left_now
from agentpay.ports import Chain
from agentpay.records import PayerRecord
from agentpay.types import Asset, ChainId, Hash32

_ASK_AGAIN_SECONDS = 0.1
_ASK_PAUSE_SECONDS_MAX = 5.0
_ON_ITS_WAY_SECONDS = 5.0
"""What has just been sent arrives by then, and its payee has looked at it."""
_AT_WORK_SECONDS = 1.0
"""So long is waited for a lane that was at work when its process ended."""
_DEPOSIT_MINED_SECONDS = 5.0
"""A deposit whose answer was lost may be on its way: wait before calling it missing."""


class Inquiry:
    """Asks payees and chains, for one payer."""

    def __init__(
        self,
        kind: ChannelKind,
        *,
        ledger: PayerLedger,
        policy: Policy,
        assets: tuple[Asset, ...],
        chains: Mapping[ChainId, Chain],
        ask: Asker,
        clock: Callable[[], float],
        forget: Callable[[Hash32], None],
    ) -> None:
        """`forget` is told of channels that their payee does not know any more."""
        self._kind = kind
        self._ledger = ledger
        self._policy = policy
        self._coming_seconds = min(_ON_ITS_WAY_SECONDS, policy.give_up_seconds / 2)
        self._assets = assets
        self._chains = chains
        self._ask = ask
        self._clock = clock
        self._forget = forget
        self.uncarried: set[Hash32] = set()
        """Deposits, by their salts, that are not to go along again."""
        self._checked: set[Hash32] = set()
        self._checks: Attempts[Hash32, bool] = Attempts()
        self._questions: dict[str, tuple[VoucherPayment, asyncio.Task[None]]] = {}
        self._later: dict[str, tuple[VoucherPayment, Whereabouts]] = {}
        """What is asked about once its amount's question is over."""
        self._left = LeftVouchers()

    def trust(self, channel: Hash32) -> None:
        """This channel is new: there is nothing to ask about it."""
        self._checked.add(channel)

    async def check(self, channel: Hash32, place: Place) -> bool:
        """
        Before a channel from the store signs anything: ask how its payee sees it,
        at the place where it is about to be used.

        A database restored from a backup would sign amounts again that were signed
        already; the payee's own total gives it away (and the channel is stopped).
        False if the payee does not know the channel: use another. Many requests share
        one question, and no channel waits for another's payee.
        """
        if channel in self._checked:
            return True
        return await self._checks.share(channel, lambda: self._agrees(channel, place))

    async def _agrees(self, channel: Hash32, place: Place) -> bool:
        record = await self._ledger.read(channel)
        if record is None:
            return False
        await self._ledger.check_host(record.host)
        if is_lane(record):  # its deposit may go along again
            await self.any_deposit_came([channel])
        else:
            await self.look_for_deposit(channel)
        record = await self._ledger.read(channel) or record
        if record.ledger.deposit is None:
            # One that goes along is signed as it was, or it could be made twice.
            record = replace(record, url=place.url, offer=place.offer)
        calm = await self._calm(record) if self._ledger.store.shared else record
        for cumulative in filter(None, self._kind.to_ask(calm)):
            if is_lane(record):
                await self._ask_at_work(record, cumulative)
            elif await self.until_final(record, cumulative) is None:
                return False
        self._checked.add(channel)
        return True

    async def _ask_at_work(self, record: PayerRecord, cumulative: int) -> None:
        """A lane with an open request is at work: meanwhile another may be used."""
        payment = await self._kind.question(record, cumulative)
        await self.ask_later(payment, came=self._ledger.store.shared)  # see `_calm`
        _, question = self._questions[payment.id]
        seconds = min(_AT_WORK_SECONDS, self._policy.give_up_seconds / 2)
        await asyncio.wait([question], timeout=seconds)

    async def _calm(self, record: PayerRecord) -> PayerRecord:
        """
        A channel without what other processes are at, who share its store and live.

        To ask about a voucher that has not arrived burns it. So what is open has a
        while to end by itself, and what was signed meanwhile is left to who signed it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._coming_seconds
        first = {ticket.cumulative for ticket in record.ledger.open}
        ledger = record.ledger
        while loop.time() < deadline and first & {t.cumulative for t in ledger.open}:
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
            now = await self._ledger.read(record.channel)
            ledger = now.ledger if now is not None else ledger
        others = {t.cumulative for t in ledger.open} - first
        return replace(
            record,
            ledger=replace(
                ledger,
                open=tuple(t for t in ledger.open if t.cumulative in first),
                signed=tuple(c for c in ledger.signed if c not in others),
            ),
        )

    async def ask_later(
        self, payment: VoucherPayment, *, heard: bool = False, came: bool = False
    ) -> None:
        """
        Ask about a voucher in the background until its outcome is known; `heard` says
        that its request has ended, `came` that it has arrived if it ever will.
        """
        underway = left_now(
            comes_seconds=0 if came else self._coming_seconds,
            runs_seconds=0 if heard else payment.runs_seconds,
        )
        asked = self._questions.get(payment.id)
        if asked is None:
            self._begin(payment, underway)
        elif asked[0] is not payment:
            # On a lane two requests may have one amount. None is asked about twice:
            # by then its amount may be that of another, which is under way.
            self._later[payment.id] = payment, underway

    def _begin(self, payment: VoucherPayment, underway: Whereabouts) -> None:
        work = self._settle(payment, underway)
        task = asyncio.create_task(work, name=f"ask about {payment.id}")
        self._questions[payment.id] = payment, task
        task.add_done_callback(partial(self._end, payment.id))

    async def leave(
        self, target: Target, payment: VoucherPayment, *, heard: bool = False
    ) -> None:
        """The same, where nobody had its answer: see `carry_on`."""
        if payment.record.ledger.tagged:
            self._left.add(target.request, payment)
        await self.ask_later(payment, heard=heard)

    def carry_on(
        self, target: Target, channels: Collection[Hash32]
    ) -> VoucherPayment | None:
        """
        What was signed for the same request, on one of these channels, and brought it
        no answer. Who presents it asks by that.
        """
        payment = self._left.take(target)
        if payment is None or payment.record.channel not in channels:
            return None
        asked = self._questions.pop(payment.id, None)
        if asked is not None:
            asked[1].cancel()
        return payment.carried_on()

    async def _settle(self, payment: VoucherPayment, underway: Whereabouts) -> None:
        while True:
            if await self._is_over(payment, underway):
                return
            await asyncio.sleep(_ASK_AGAIN_SECONDS)

    def _end(self, payment: str, question: asyncio.Task[None]) -> None:
        asked = self._questions.get(payment)
        if asked is not None and asked[1] is question:
            del self._questions[payment]
        later = self._later.pop(payment, None)
        if later is not None and not question.cancelled():
            self._begin(*later)

    async def _is_over(self, payment: VoucherPayment, underway: Whereabouts) -> bool:
        """Whether nothing is to be asked any more, of a store that may be away, too."""
        channel = payment.record.channel
        try:
            record = await self._ledger.read(channel)
            if record is None or record.ledger.ticket(payment.cumulative) is None:
                return True
            if record.ledger.deposit is None:
                asked = payment.record
                record = replace(record, url=asked.url, offer=asked.offer)
            cost = await self.until_final(record, payment.cumulative, underway=underway)
            await self._ledger.resolved(payment.id, record.host, moved=bool(cost))
            if not cost:
                self._left.drop(payment)
            if cost is None:
                self._forget(channel)
            else:
                await self.look_for_deposit(channel)
        except StoreClosed:
            return True
        except (PaymentOutcomeUnknown, StoreUnavailable, StoreOutcomeUnknown):
            return False
        except AgentPayError:
            pass  # what stays open is asked again after a restart
        return True

    async def until_final(
        self, record: PayerRecord, cumulative: int, *, underway: Whereabouts = ended
    ) -> int | None:
        """
        Find out what a voucher cost; None if the payee does not know the channel.
        `underway` says where its request may be, though nobody says so.

        Raises:
            PaymentOutcomeUnknown: No final answer came in time.
            PayeeMisbehaved: The answer contradicts our books.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._policy.give_up_seconds
        said, _, url = record.url.partition(" ")
        method = self._kind.asking_method(said)
        payment = await self._kind.question(record, cumulative, underway=underway)
        pause = _ASK_AGAIN_SECONDS
        while url and loop.time() < deadline:
            answer = await self._ask(
                method, url, payment.credential, field=payment.header
            )
            if answer is not None:
                await self._see_deposit(record.channel)
                judged = await payment.book(answer, resent=True)
                if judged.final:
                    return judged.charged
                if judged.next is Next.REJECTED:
                    repriced = await self._kind.repriced(payment, answer)
                    if repriced is None:
                        return None
                    payment = repriced
                if judged.next is Next.RENEW:
                    payment = self._kind.renewed(payment, answer) or payment
            await asyncio.sleep(pause)
            pause = min(2 * pause, _ASK_PAUSE_SECONDS_MAX)
        raise PaymentOutcomeUnknown(payment.id, "the payee does not say")

    async def any_at_work(self, channels: Sequence[Hash32]) -> bool:
        """Whether a request is under way that will be answered, or given up."""
        for channel in channels:
            record = await self._ledger.read(channel)
            if record is None or not record.ledger.open:
                continue
            deposit = record.ledger.deposit
            if deposit is None or self._clock() <= deposit.valid_before:
                return True
        return False

    async def any_deposit_came(self, channels: Sequence[Hash32]) -> bool:
        """
        Whether the chain tells of a deposit that was open.

        Raises:
            ChainError: The chain could not be asked.
        """
        for channel in channels:
            record = await self._ledger.read(channel)
            deposit = record.ledger.deposit if record is not None else None
            if record is None or deposit is None:
                continue
            if await self.resolve_deposit(record, deposit):
                return True
        return False

    async def _see_deposit(self, channel: Hash32) -> None:
        """
        A deposit that went along is booked first: whoever waits for the request to be
        over would carry it again.
        """
        with contextlib.suppress(ChainError):
            await self.any_deposit_came([channel])

    async def look_for_deposit(self, channel: Hash32) -> None:
        """A deposit nobody is carrying any more: did it reach the chain?"""
        record = await self._ledger.read(channel)
        if record is None or record.ledger.deposit is None:
            return
        deposit = record.ledger.deposit
        if record.ledger.open and self._clock() <= deposit.valid_before:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._mined_seconds
        while not await self.resolve_deposit(record, deposit):
            if loop.time() > deadline:
                raise ChannelUnusable(
                    f"the deposit of {deposit.amount} to channel {channel} was not"
                    f" made, and its signature stays valid until"
                    f" {deposit.valid_before}: until then it counts as spent"
                )
            await asyncio.sleep(_ASK_AGAIN_SECONDS)

    async def is_made(
        self, chain: ChainId, deposit: SignedDeposit, *, soon: bool = True
    ) -> bool:
        """Whether the chain shows a deposit; `soon`, if its payee says it was made."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._mined_seconds
        while True:
            try:
                if await is_used(self._chains[chain], deposit):
                    return True
            except ChainError:
                return False
            if not soon or loop.time() > deadline:
                return False
            await asyncio.sleep(_ASK_AGAIN_SECONDS)

    @property
    def _mined_seconds(self) -> float:
        """A deposit has so long to appear, and no caller waits longer than it said."""
        return min(_DEPOSIT_MINED_SECONDS, self._policy.give_up_seconds)

    async def resolve_deposit(
        self, record: PayerRecord, deposit: PendingDeposit
    ) -> bool:
        """
        Ask the chain what became of a deposit; False while it may still move money.

        Raises:
            ChainError: The chain could not be asked.
        """
        channel, chain = record.channel, self._chains[record.chain]
        ways = self._kind.deposits(record, asset_in(record, self._assets), deposit)
        head = await chain.head()
        used = [await is_used(chain, w, block=head.number) for w in ways.values()]
        hold = f"deposit {deposit.salt}"
        if any(used):
            amount = scale(deposit.amount, record.decimals)
            await self._ledger.book(
                channel,
                DepositArrived(salt=deposit.salt),
                money=(Spent(id=hold, amount=amount),),
            )
            return True
        if head.timestamp <= deposit.valid_before:
            return False
        # Vouchers on a channel that was never funded have bought nothing either.
        unpaid = () if record.ledger.balance else record.ledger.open
        await self._ledger.book(
            channel,
            DepositLapsed(salt=deposit.salt),
            *(TicketVoid(cumulative=ticket.cumulative) for ticket in unpaid),
            money=(Released(id=hold),),
        )
        return True

    async def aclose(self) -> None:
        """Stop asking."""
        await self._checks.aclose()
        questions = [question for _, question in self._questions.values()]
        for task in questions:
            task.cancel()
        await asyncio.gather(*questions, return_exceptions=True)
