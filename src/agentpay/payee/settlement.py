"""
Turns what vouchers allow into tokens: claims, settlements and refunds of a payee.

Each step is recorded before it is sent, and what it did is read back from the chain.
A claim that cannot be part of a batch is found by halving, and left out for a while, so
that it holds up nobody and costs nothing each round.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from agentpay.core import payee_rules
from agentpay.core.payee_channel import Status
from agentpay.core.payee_events import (
    ChainSeen,
    OwnersDied,
    PartBegun,
    RefundDone,
    VoucherPublished,
)
from agentpay.errors import GasMissing, GasTooExpensive, TransactionFailed
from agentpay.evm.batch_settlement import REFUND_ALL, ChannelConfig, VoucherClaim
from agentpay.evm.batch_settlement_abi import ChannelOnChain
from agentpay.onchain import find_refund, read_channel, read_unsettled
from agentpay.payee.finality import Credits
from agentpay.payee.noting import note, noted
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.quarantine import LONGEST_SECONDS, Quarantine
from agentpay.payee.watched import Watched
from agentpay.ports import Chain, PayeeStore, Settler, Signer
from agentpay.records import (
    PayeeRecord,
    PayeeStep,
    Settled,
    Taken,
    channel_config,
)
from agentpay.types import Hash32


class Settlement:
    """Claims, settles and refunds the channels of one payee, one step at a time."""

    def __init__(
        self,
        *,
        settings: PayeeSettings,
        chain: Chain,
        facilitator: Settler,
        store: PayeeStore,
        authorizer: Signer,
        watched: Watched | None = None,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._facilitator = facilitator
        self._store = store
        self._authorizer = authorizer
        self._clock = clock
        self._watched = watched or Watched()
        self._one_at_a_time = asyncio.Lock()
        self._hurried = 0
        self.waits = False
        """Whether the last `claim` left a channel for a request that runs."""
        self._credits = Credits(chain, settings.finality)
        # Within a withdraw delay, what can be claimed again is tried several times.
        longest = min(LONGEST_SECONDS, settings.withdraw_delay / 6)
        self._unclaimable = Quarantine("claimed", longest=longest, clock=clock)

    async def look(self, channel: Hash32) -> ChannelOnChain:
        """What the chain says of a channel, with as much of it as may be spent yet."""
        state = await read_channel(self._chain, channel)

        async def balance_at(block: int) -> int:
            return (await read_channel(self._chain, channel, block=block)).balance

        credited = await self._credits.of(state.balance, balance_at)
        return replace(state, balance=credited)

    async def see_chain(
        self, channel: Hash32, *, whole: bool = False, taken: Taken | None = None
    ) -> PayeeRecord | None:
        """
        Read a channel of x402's from the chain into the ledger; None if it is not ours.

        With `whole`, also what is not final yet: to be given back, and not to be spent.
        `taken` is what the chain was asked for just before.
        """
        while (known := await self._store.read(channel)) is not None:
            if not isinstance(known.config, ChannelConfig):
                return None
            after = await self._see(known, whole=whole, taken=taken)
            if after is not None:
                return after
        return None

    async def _see(
        self, known: PayeeRecord, *, whole: bool, taken: Taken | None
    ) -> PayeeRecord | None:
        """None if others, of any process, saw something new meanwhile: look again."""
        channel = known.channel
        state = await (
            read_channel(self._chain, channel) if whole else self.look(channel)
        )
        seen = ChainSeen(
            balance=state.balance,
            claimed=state.claimed,
            pending_withdrawal=state.withdrawal,
        )
        now = self._now()

        def decide(record: PayeeRecord | None) -> PayeeStep[PayeeRecord | None]:
            # An older look saved last would hide that a payer leaves.
            if record is None or record.seen != known.seen:
                return PayeeStep(record=record, answer=None)
            transition = payee_rules.apply(record.ledger, seen)
            after = record.seen_on_chain(
                transition.channel,
                at=now,
                refund_nonce=state.refund_nonce,
                withdrawal_started=state.withdrawal_started,
                taken=taken,
            )
            return PayeeStep(record=after, answer=after)

        return await self._store.update(known.channel, decide)

    def _now(self) -> int:
        return int(self._clock())

    async def claim(self, *, at_least: int = 1) -> int:
        """
        Claim every channel with at least so much due; returns how many were claimed.

        One that could not be claimed of late is left out, until its pause is over.

        Raises:
            ChainError: Some could not be; those before them were.
        """
        async with self._one_at_a_time:
            claimed, asked_at, self.waits = 0, self._now(), False
            skip = self._unclaimable.held()
            while records := await self._next_batch(at_least, skip):
                claimed += await self._claim_batch(
                    records, skip, asked_at=asked_at, at_least=at_least
                )
            return claimed

    async def claim_channels(
        self, wanted: Collection[Hash32], *, deadline: int = 0
    ) -> None:
        """
        Claim these now, as when their payers may withdraw from `deadline` on.

        Refunds that stand in line give way: a long line could outlast the deadline.
        """
        self._hurried += 1
        try:
            async with self._one_at_a_time:
                asked_at = self._now()
                found = [await self._prepare(c) for c in dict.fromkeys(wanted)]
                due = [record for record in found if record is not None]
                most = self._facilitator.claims_max
                for at in range(0, len(due), most):
                    batch = due[at : at + most]
                    await self._claim_batch(
                        batch, set(), asked_at=asked_at, deadline=deadline, leaving=True
                    )
        finally:
            self._hurried -= 1

    async def _prepare(self, channel: Hash32) -> PayeeRecord | None:
        """A channel that cannot wait, if anything is to be claimed on it."""
        self._unclaimable.release(channel)
        record = await self._store.read(channel)
        if record is None or not isinstance(record.config, ChannelConfig):
            return None
        # What a dead process had finished is not due until it is buried.
        await note(self._store, channel, OwnersDied(owner=self._store.owner))
        record = await self._store.read(channel)
        return record if record is not None and record.ledger.unclaimed else None

    async def _next_batch(self, at_least: int, skip: set[Hash32]) -> list[PayeeRecord]:
        most = self._facilitator.claims_max
        limit = most + len(skip)
        records = await self._store.claimable(
            sessions=False, at_least=max(1, at_least), limit=limit
        )
        return [r for r in records if r.channel not in skip][:most]

    async def _claim_batch(
        self,
        records: Sequence[PayeeRecord],
        skip: set[Hash32],
        *,
        asked_at: int,
        at_least: int = 1,
        deadline: int = 0,
        leaving: bool = False,
    ) -> int:
        """Claim these, or find by halving the ones that cannot be, or not together."""
        choose = partial(self._publish, at_least=at_least, leaving=leaving)
        pairs = [(record, await choose(record.channel)) for record in records]
        claims = [claim for _, claim in pairs if claim is not None]
        self.waits = self.waits or len(claims) < len(pairs)
        skip.update(record.channel for record, claim in pairs if claim is None)
        if not claims:
            return 0
        ready = [record for record, claim in pairs if claim is not None]
        try:
            with self._watched.step("claim", len(claims)):
                await self._facilitator.claim(
                    claims, authorizer=self._authorizer, deadline=deadline
                )
        except (TransactionFailed, GasTooExpensive, GasMissing) as error:
            # What costs too much gas as a whole can be had in parts.
            if len(ready) == 1:
                if not isinstance(error, TransactionFailed):
                    raise
                skip.add(ready[0].channel)
                self._unclaimable.put(ready[0].channel, error)
                # Perhaps the chain took its deposit back: nothing is sold on that.
                await self.see_chain(ready[0].channel)
                return 0
            half = len(ready) // 2
            again = partial(
                self._claim_batch,
                skip=skip,
                asked_at=asked_at,
                at_least=at_least,
                deadline=deadline,
                leaving=leaving,
            )
            counts = [await again(each) for each in (ready[:half], ready[half:])]
            return sum(counts)
        for record in ready:
            self._unclaimable.release(record.channel)
            skip.add(record.channel)  # once each, whatever the chain made of it
            due = record.ledger.claimed + record.ledger.unclaimed
            taken = Taken(amount=due, asked_at=asked_at)
            await self.see_chain(record.channel, taken=taken)
        return len(ready)

    async def _publish(
        self, channel: Hash32, *, at_least: int = 1, leaving: bool = False
    ) -> VoucherClaim | None:
        """
        Choose a voucher, and record that the chain is going to show it: also one whose
        request runs if its payer is leaving, or if so much is due that others are
        refused. None, if what else there is brings less than `at_least`.
        """
        limit = self._settings.exposure_max

        def decide(record: PayeeRecord | None) -> PayeeStep[VoucherClaim | None]:
            if record is None:
                return PayeeStep(record=record, answer=None)
            full = limit is not None and 2 * record.ledger.unclaimed >= limit
            claim = _claim_of(record, anyhow=leaving or full)
            least = record.ledger.claimed + at_least
            if claim is None or claim.total_claimed < least:
                return PayeeStep(record=record, answer=None)
            published = VoucherPublished(amount=claim.max_claimable)
            return noted(record, published, answer=claim)

        return await self._store.update(channel, decide)

    async def settle(self, *, at_least: int = 1) -> int:
        """
        Send the payee all that was claimed, if it is enough; returns how much.

        Raises:
            ChainError: Nothing was sent, or it is not known yet.
        """
        async with self._one_at_a_time:
            receiver, token = self._settings.pay_to, self._settings.asset.address
            waiting = await read_unsettled(self._chain, receiver, token)
            if waiting < max(1, at_least):
                return 0
            with self._watched.step("settle", 1):
                asset = self._settings.asset
                settled = await self._facilitator.settle(receiver, asset)
            return settled.amount

    async def refund(self, channel: Hash32) -> tuple[PayeeRecord, str, int] | None:
        """
        Claim what is due on a closing channel and give the rest back, or a part of it.

        Returns the channel, the transaction ("" if it was done before) and the amount;
        None while requests still run, or while others have to be claimed first.

        Raises:
            ChainError: Nothing moved, or it is not known yet; asking again is safe.
        """
        async with self._one_at_a_time:
            if self._hurried:
                return None
            await note(self._store, channel, OwnersDied(owner=self._store.owner))
            known = await self._store.read(channel)
            if known is None or known.ledger.running:
                return None  # the chain need not be asked while something runs
            record = await self.see_chain(channel)
            if record is None or record.ledger.running:
                return None
            if record.ledger.status is Status.CLOSING:
                record = await self.see_chain(channel, whole=True)
            if record is None:
                return None
            done = await self._refund(record)
            if done is None:
                return None
            await note(self._store, channel, done)
            record = await self.see_chain(channel) or record
            return record, done.transaction, done.refunded

    async def _refund(self, record: PayeeRecord) -> RefundDone | None:
        """What came of it; None if others have ended it meanwhile."""
        ledger = record.ledger
        if ledger.status is not Status.CLOSING:
            return RefundDone()
        if ledger.part is not None:
            return await self._refund_part(record)
        if ledger.balance <= ledger.due:
            return RefundDone()
        settled = await self._send_refund(record, REFUND_ALL, record.refund_nonce)
        return RefundDone(refunded=settled.amount, transaction=settled.transaction)

    async def _refund_part(self, seen: PayeeRecord) -> RefundDone | None:
        """
        Send it as the refund of one number, which is kept first. After a crash, the
        chain is past that number if it was made, and makes it once if it was not.
        """
        asked = seen.ledger.closing_voucher or 0
        begun = PartBegun(cumulative=asked, nonce=seen.refund_nonce)
        await note(self._store, seen.channel, begun)
        record = await self._store.read(seen.channel)
        part = record.ledger.part if record is not None else None
        if record is None or part is None or part.nonce is None:
            return None
        nonce = part.nonce
        if record.refund_nonce > nonce:
            since = record.last_voucher_at
            made = await find_refund(self._chain, seen.channel, since=since)
        elif record.ledger.balance <= record.ledger.due:
            made = Settled(transaction="", amount=0)
        else:
            made = await self._send_refund(record, part.amount, nonce)
        return RefundDone(
            nonce=nonce, refunded=made.amount, transaction=made.transaction
        )

    async def _send_refund(
        self, record: PayeeRecord, amount: int, nonce: int
    ) -> Settled:
        unclaimed = record.ledger.unclaimed
        claim = await self._publish(record.channel) if unclaimed else None
        with self._watched.step("refund", 1):
            return await self._facilitator.refund(
                channel_config(record),
                amount=amount,
                nonce=nonce,
                claims=[claim] if claim else [],
                authorizer=self._authorizer,
            )


def _claim_of(record: PayeeRecord, *, anyhow: bool) -> VoucherClaim | None:
    """If what covers all that is due has to wait, as much as another one covers."""
    ledger = record.ledger
    voucher = ledger.claim_voucher()
    if voucher is None or not (anyhow or ledger.may_show(voucher)):
        voucher = ledger.ready_voucher()
    if voucher is None:
        return None
    return VoucherClaim(
        config=channel_config(record),
        max_claimable=voucher.amount,
        signature=voucher.signature,
        total_claimed=min(ledger.due, ledger.balance, voucher.amount),
    )
