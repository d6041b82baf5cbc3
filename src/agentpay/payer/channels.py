"""
A payer's channels of one kind: which one a request uses, when one is opened, and what
is asked of a payee whose answers were lost.

One parallel channel serves an origin; a payee that follows the specification alone is
paid on lanes, a few channels that differ by salt. The kind says what is x402's about
them, or MPP's.
"""

import asyncio
import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial

from agentpay.core.payer_channel import (
    Issued,
    PayerChannel,
    PayerStatus,
    Unusable,
)
from agentpay.errors import BudgetExceeded, ChannelUnusable, KeyElsewhere
from agentpay.payer.channel_key import Key
from agentpay.payer.channel_kind import ChannelKind, Ticketed, VoucherPayment
from agentpay.payer.inquiry import Inquiry
from agentpay.payer.keys import PayerKeys
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.ledger_steps import DepositWish, Place
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Asker, Target
from agentpay.payer.policy import Policy
from agentpay.ports import Chain
from agentpay.records import Config, PayerRecord
from agentpay.types import Asset, ChainId, Hash32, to_base_units

_STRICT_WINDOW = 64


class Channels:
    """All channels of one payer that are of one kind."""

    def __init__(
        self,
        kind: ChannelKind,
        *,
        keys: PayerKeys,
        ledger: PayerLedger,
        policy: Policy,
        assets: tuple[Asset, ...],
        chains: Mapping[ChainId, Chain],
        ask: Asker,
        clock: Callable[[], float],
    ) -> None:
        self.kind = kind
        self._keys = keys
        self._ledger = ledger
        self._policy = policy
        self.inquiry = Inquiry(
            kind,
            ledger=ledger,
            policy=policy,
            assets=assets,
            chains=chains,
            ask=ask,
            clock=clock,
            forget=self._forget,
        )
        self._clock = clock
        self._fundable = lru_cache(maxsize=256)(self._funding)
        self._known: dict[Key, list[Hash32]] | None = None
        self._opening: defaultdict[Key, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def pay(self, offer: Offer, target: Target) -> VoucherPayment:
        """
        A voucher for one request, on a channel that has room for it.

        Raises:
            BudgetExceeded: The budget does not allow the request or its deposit.
            ChannelUnusable: No channel can sign for it, and none may be opened.
            KeyElsewhere: It needs a deposit, and the wallet is only watched.
            OfferUntrusted: The contract of its channels is not what we take it for.
            PaymentOutcomeUnknown: A channel's state cannot be made out.
            ChainError: The chain is needed to open a channel and cannot be read.
        """
        key = self.kind.key_of(offer, target, self._keys.authorizer)
        if key is None:
            raise ChannelUnusable("the offer has no channel terms")
        if target.origin in self._ledger.distrusted:
            raise ChannelUnusable(
                f"{target.origin} contradicted our signatures and is paid no more:"
                " withdraw from its channel"
            )
        if left := self.inquiry.carry_on(target, await self._lanes(key)):
            return left
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._policy.give_up_seconds
        while True:
            change = self._ledger.change(key.origin)
            payment, refused = await self._pay_on_any(key, offer, target)
            if payment is not None:
                return payment
            lanes = list(await self._lanes(key))
            waiting = change.came or await self.inquiry.any_at_work(lanes)
            if not waiting and await self.inquiry.any_deposit_came(lanes):
                continue
            if refused is None and await self._may_open(key, offer, target):
                await self._open(key, offer, target, len(lanes))
                continue
            if not waiting:
                if refused is not None:
                    raise refused
                for channel in lanes:
                    await self.inquiry.look_for_deposit(channel)
            if not await change.wait(deadline - loop.time()):
                raise ChannelUnusable(
                    f"no channel to {target.origin} had room for a request within"
                    f" {self._policy.give_up_seconds} s"
                )

    async def has_open(self, offer: Offer, target: Target) -> bool:
        """Whether there is a channel that may pay for this offer."""
        key = self.kind.key_of(offer, target, self._keys.authorizer)
        return key is not None and bool((await self._all()).get(key))

    async def _pay_on_any(
        self, key: Key, offer: Offer, target: Target
    ) -> tuple[VoucherPayment | None, BudgetExceeded | None]:
        """A voucher on the first lane that has room, or why an empty one stays so."""
        refused: BudgetExceeded | KeyElsewhere | None = None
        for channel in list(await self._lanes(key)):
            try:
                payment = await self._pay_on(channel, key, offer, target)
            except (BudgetExceeded, KeyElsewhere) as error:  # another may have room
                refused = error
                continue
            if payment is not None:
                return payment, None
        if isinstance(refused, KeyElsewhere):
            raise refused
        return None, refused

    async def _may_open(self, key: Key, offer: Offer, target: Target) -> bool:
        """Whether there may be one more lane, and the budget has a deposit for it."""
        lanes = len(await self._lanes(key))
        if not lanes:
            return True  # and the budget says no in its own words
        single = key.tagged or not self._keys.may_deposit
        if single or lanes >= self._policy.lanes_max:
            return False
        least, decimals = self.wish(offer).amounts[-1], offer.asset.decimals
        return await self._ledger.affords(least, host=target.host, decimals=decimals)

    async def _pay_on(
        self, channel: Hash32, key: Key, offer: Offer, target: Target
    ) -> VoucherPayment | None:
        """A voucher on this channel; None if it has no room now."""
        place = _place_of(offer, target)
        if not await self.inquiry.check(channel, place):
            self._forget(channel)
            return None
        wish = self.wish(offer)
        answer, record = await self._ledger.take_ticket(
            channel,
            maximum=offer.amount,
            host=target.host,
            place=place,
            wish=wish,
        )
        if isinstance(answer, Unusable):
            self._forget(channel)
            if record.ledger == self._books(key, offer):  # another will do no better
                raise ChannelUnusable(f"{target.origin}: {answer.reason}")
            return None
        if not isinstance(answer, Issued):
            return None
        try:
            return await self._sign(record, answer, offer, target)
        except BaseException:
            # Also cancelled: the voucher has not left us, and never will.
            await self._ledger.take_back(channel, answer)
            raise

    async def _sign(
        self, record: PayerRecord, issued: Issued, offer: Offer, target: Target
    ) -> VoucherPayment:
        inquiry, chain = self.inquiry, record.chain
        return await self.kind.sign(
            Ticketed(
                record=record,
                issued=issued,
                offer=offer,
                target=target,
                leave=inquiry.ask_later,
                left=partial(inquiry.leave, target),
                is_made=partial(inquiry.is_made, chain),
                uncarried=inquiry.uncarried.add,
            )
        )

    async def raise_for(
        self,
        payment: VoucherPayment,
        offer: Offer,
        target: Target,
        *,
        more: int,
        delivered: int,
    ) -> VoucherPayment | None:
        """
        Another voucher for a request that runs, so that it may cost `more` than it
        could; None if there is no room for it now. What it has `delivered` is owed.

        Raises:
            BudgetExceeded: The budget does not allow it, or a deposit that it needs.
            ChannelUnusable: Nothing more is signed for that request.
            KeyElsewhere: It needs a deposit, and the wallet is only watched.
        """
        channel = payment.record.channel
        answer, record = await self._ledger.take_raise(
            channel,
            cumulative=payment.cumulative,
            more=more,
            delivered=delivered,
            host=target.host,
            wish=self.wish(offer),
        )
        if isinstance(answer, Unusable):
            raise ChannelUnusable(f"channel {channel}: {answer.reason}")
        if not isinstance(answer, Issued):
            return None
        try:
            return await self._sign(record, answer, offer, target)
        except BaseException:
            await self._ledger.take_back(channel, answer)
            raise

    def wish(self, offer: Offer) -> DepositWish:
        """How a request under an offer may fund its channel."""
        decimals, terms = offer.asset.decimals, self.kind.terms_of(offer)
        least = max(offer.amount, terms.deposit_min)
        amounts, low_water = self._fundable(least, decimals)
        seconds = min(offer.max_timeout_seconds, self._policy.authorization_seconds_max)
        return DepositWish(
            amounts=amounts,
            uncarried=self.inquiry.uncarried,
            salt=Hash32.of(secrets.token_bytes(32)),
            now=(now := int(self._clock())),
            valid_before=now + max(60, seconds),
            low_water=low_water,
            rise=terms.rise,
            whole=terms.whole,
        )

    def _funding(self, least: int, decimals: int) -> tuple[tuple[int, ...], int]:
        """What to deposit, the best first; and what is topped up before need."""
        preferred = max(least, to_base_units(self._policy.deposit, decimals))
        amounts = (preferred, least) if preferred > least else (least,)
        if not self._keys.may_deposit:
            return amounts, 0
        low_water = to_base_units(self._policy.low_water, decimals)
        return amounts, min(low_water, preferred // 4)

    # Which channels there are.

    async def _lanes(self, key: Key) -> list[Hash32]:
        return (await self._all()).setdefault(key, [])

    async def _all(self) -> dict[Key, list[Hash32]]:
        if self._known is None:
            known: dict[Key, list[Hash32]] = defaultdict(list)
            for other, record in await self._recorded():
                if record.ledger.status is PayerStatus.OPEN:
                    known[other].append(record.channel)
            if self._known is None:  # others may have read it too, and opened some
                self._known = known
        return self._known

    async def _recorded(self) -> list[tuple[Key, PayerRecord]]:
        """Every channel of our kind in the store, and what it belongs to."""
        records = await self._ledger.store.channels(self._ledger.account)
        keyed = ((self.kind.key_in(record), record) for record in records)
        return [(key, record) for key, record in keyed if key is not None]

    def _forget(self, channel: Hash32) -> None:
        for lanes in (self._known or {}).values():
            if channel in lanes:
                lanes.remove(channel)

    async def _open(self, key: Key, offer: Offer, target: Target, seen: int) -> None:
        """Begin the next channel of a key: its salt can be found again from the key."""
        async with self._opening[key]:
            lanes = await self._lanes(key)
            if len(lanes) > seen:
                return  # somebody else opened one while we waited
            await self.kind.check(key)
            ours = [record for other, record in await self._recorded() if other == key]
            # Whoever began it was cancelled before anything was signed on it.
            untouched = [r.channel for r in ours if r.ledger == self._books(key, offer)]
            left = next((c for c in untouched if c not in lanes), None)
            lanes.append(left or await self._begin(key, offer, target, len(ours)))

    async def _begin(
        self, key: Key, offer: Offer, target: Target, index: int
    ) -> Hash32:
        """The first channel of a key, from this number on, that nobody ever used."""
        while True:
            config = await self.kind.config(key, index)
            if (await self.kind.state(config, key.chain)).unused:
                break
            index += 1
        fresh = self._fresh(key, offer, _place_of(offer, target), config, index)
        await self._ledger.add(fresh)
        self.inquiry.trust(fresh.channel)
        return fresh.channel

    def _fresh(
        self,
        key: Key,
        offer: Offer,
        place: Place,
        config: Config,
        index: int,
    ) -> PayerRecord:
        return PayerRecord(
            channel=self.kind.id_of(config, key.chain),
            chain=key.chain,
            config=config,
            origin=key.origin,
            index=index,
            ledger=self._books(key, offer),
            decimals=offer.asset.decimals,
            url=place.url,
            offer=place.offer,
        )

    def _books(self, key: Key, offer: Offer) -> PayerChannel:
        """Those of a channel that is begun under an offer."""
        parallel = self.kind.terms_of(offer).parallel if key.tagged else None
        return PayerChannel(
            tagged=key.tagged,
            window=parallel.window if parallel else _STRICT_WINDOW,
            in_flight_max=parallel.in_flight_max if parallel else 1,
            headroom=to_base_units(self._policy.headroom, offer.asset.decimals),
        )

    async def find_lost(self, offer: Offer, target: Target) -> list[Hash32]:
        """
        Channels that the chain holds and our store does not: withdraw from them.

        Their salts are made from the wallet's key, so it and the address of the key of
        their vouchers find them again (rule 19): looked for are those of our voucher
        key and of the wallet itself. Their deposits count as spent until they are back.

        Raises:
            KeyElsewhere: The wallet is only watched.
            ChainError: The chain could not be read.
        """
        ours = {record.channel for _, record in await self._recorded()}
        found: list[Hash32] = []
        for authorizer in dict.fromkeys((self._keys.authorizer, self._keys.account)):
            key = self.kind.key_of(offer, target, authorizer)
            if key is not None:
                found += await self._find_lost(key, offer, target, ours)
        return found

    async def _find_lost(
        self, key: Key, offer: Offer, target: Target, ours: set[Hash32]
    ) -> list[Hash32]:
        found: list[Hash32] = []
        index = 0
        while True:
            config = await self.kind.config(key, index)
            channel = self.kind.id_of(config, key.chain)
            state = await self.kind.state(config, key.chain)
            if state.unused and channel not in ours:
                return found
            if channel not in ours:
                place = _place_of(offer, target)
                fresh = self._fresh(key, offer, place, config, index)
                ledger = replace(
                    fresh.ledger,
                    status=PayerStatus.STOPPED,
                    balance=state.balance,
                    spent=state.claimed,
                )
                lost = replace(fresh, ledger=ledger)
                await self._ledger.add(lost, found=state.balance)
                found.append(channel)
            index += 1

    async def aclose(self) -> None:
        """Stop asking about what is open; a restart asks again."""
        await self.inquiry.aclose()


def _place_of(offer: Offer, target: Target) -> Place:
    method, url = target.route
    return Place(url=f"{method} {url}", offer=json.dumps(offer.words))
