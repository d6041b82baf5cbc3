"""
A payer's channels: which one a request uses, when one is opened, and what is asked of a
payee whose answers were lost.

One parallel channel serves an origin; a payee that follows the specification alone is
paid on lanes, a few channels that differ by salt.
"""

import asyncio
import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from functools import partial
from urllib.parse import urlsplit

from agentpay.core.payer_channel import (
    Issued,
    PayerChannel,
    PayerStatus,
    Unusable,
)
from agentpay.errors import BudgetExceeded, ChannelUnusable, KeyElsewhere
from agentpay.evm.batch_settlement import (
    PARALLEL_TAG,
    ChannelConfig,
    channel_id,
)
from agentpay.onchain import read_channel
from agentpay.payer.approvals import Approval, Approvals
from agentpay.payer.channel_key import ChannelKey, key_in, key_of
from agentpay.payer.channel_payment import ChannelPayment
from agentpay.payer.inquiry import Inquiry
from agentpay.payer.keys import PayerKeys
from agentpay.payer.ledger import DepositWish, PayerLedger, Place
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Asker, Target
from agentpay.payer.policy import Policy
from agentpay.payer.signing import (
    answer_extensions,
    sign_voucher,
    unsigned_deposits,
)
from agentpay.ports import Chain
from agentpay.records import PayerRecord
from agentpay.types import Asset, ChainId, Hash32, to_base_units
from agentpay.wire.x402 import PERMIT2

_STRICT_WINDOW = 64


class Channels:
    """All channels of one payer."""

    def __init__(
        self,
        *,
        keys: PayerKeys,
        ledger: PayerLedger,
        policy: Policy,
        assets: tuple[Asset, ...],
        chains: Mapping[ChainId, Chain],
        approvals: Approvals,
        ask: Asker,
        clock: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._ledger = ledger
        self._policy = policy
        self._chains = chains
        self._approvals = approvals
        self.inquiry = Inquiry(
            keys=keys,
            ledger=ledger,
            policy=policy,
            assets=assets,
            chains=chains,
            ask=ask,
            clock=clock,
            forget=self._forget,
        )
        self._clock = clock
        self._known: dict[ChannelKey, list[Hash32]] | None = None
        self._opening: defaultdict[ChannelKey, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def pay(self, offer: Offer, target: Target) -> ChannelPayment:
        """
        A voucher for one request, on a channel that has room for it.

        Raises:
            BudgetExceeded: The budget does not allow the request or its deposit.
            ChannelUnusable: No channel can sign for it, and none may be opened.
            KeyElsewhere: It needs a deposit, and the wallet is only watched.
            PaymentOutcomeUnknown: A channel's state cannot be made out.
            ChainError: The chain is needed to open a channel and cannot be read.
        """
        if offer.channel is None:
            raise ChannelUnusable("the offer has no channel terms")
        if target.origin in self._ledger.distrusted:
            raise ChannelUnusable(
                f"{target.origin} contradicted our signatures and is paid no more:"
                " withdraw from its channel"
            )
        key = key_of(offer, offer.channel, target, self._keys.authorizer)
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
        if offer.channel is None:
            return False
        key = key_of(offer, offer.channel, target, self._keys.authorizer)
        return bool(await self._lanes(key))

    async def _pay_on_any(
        self, key: ChannelKey, offer: Offer, target: Target
    ) -> tuple[ChannelPayment | None, BudgetExceeded | None]:
        """A voucher on the first lane that has room, or why an empty one stays so."""
        refused: BudgetExceeded | KeyElsewhere | None = None
        for channel in list(await self._lanes(key)):
            try:
                payment = await self._pay_on(channel, offer, target)
            except (BudgetExceeded, KeyElsewhere) as error:  # another may have room
                refused = error
                continue
            if payment is not None:
                return payment, None
        if isinstance(refused, KeyElsewhere):
            raise refused
        return None, refused

    async def _may_open(self, key: ChannelKey, offer: Offer, target: Target) -> bool:
        """Whether there may be one more lane, and the budget has a deposit for it."""
        lanes = len(await self._lanes(key))
        if not lanes:
            return True  # and the budget says no in its own words
        single = key.tagged or not self._keys.may_deposit
        if single or lanes >= self._policy.lanes_max:
            return False
        least, decimals = self._wish(offer).amounts[-1], offer.asset.decimals
        return await self._ledger.affords(least, host=target.host, decimals=decimals)

    async def _pay_on(
        self, channel: Hash32, offer: Offer, target: Target
    ) -> ChannelPayment | None:
        """A voucher on this channel; None if it has no room now."""
        place = _place_of(offer, target)
        if not await self.inquiry.check(channel, place):
            self._forget(channel)
            return None
        wish = self._wish(offer)
        answer = await self._ledger.take_ticket(
            channel,
            maximum=offer.amount,
            host=target.host,
            place=place,
            wish=wish,
        )
        if isinstance(answer, Unusable):
            self._forget(channel)
            return None
        if not isinstance(answer, Issued):
            return None
        try:
            return await self._sign(channel, answer, offer, target)
        except BaseException:
            # Also cancelled: the voucher has not left us, and never will.
            await self._ledger.take_back(channel, answer)
            raise

    async def _sign(
        self, channel: Hash32, issued: Issued, offer: Offer, target: Target
    ) -> ChannelPayment:
        record = await self._ledger.read(channel)
        if record is None:
            raise ChannelUnusable(f"channel {channel} is not in the store")
        deposit, approval = None, Approval()
        if issued.deposit is not None:
            ways = unsigned_deposits(record, offer.asset, issued.deposit)
            deposit = ways[offer.method]
        try:
            if deposit is not None and offer.method == PERMIT2:
                approval = await self._approvals.get(
                    offer, deposit.amount, valid_before=deposit.valid_before
                )
            credential = await sign_voucher(
                self._keys,
                record,
                issued.cumulative,
                kind="deposit" if deposit else "voucher",
                url=target.url,
                words=offer.words,
                deposit=(deposit, self._chains[record.chain]) if deposit else None,
                extensions=answer_extensions(
                    offer, approvals=approval.along, tagged=record.ledger.tagged
                ),
            )
        except BaseException:
            approval.end()
            raise
        return ChannelPayment(
            ledger=self._ledger,
            record=record,
            cumulative=issued.cumulative,
            maximum=offer.amount,
            credential=credential,
            deposit=issued.deposit,
            leave=self.inquiry.ask_later,
            approval=approval,
            is_made=partial(self.inquiry.is_made, record.chain, deposit),
        )

    def _wish(self, offer: Offer) -> DepositWish:
        decimals = offer.asset.decimals
        terms = offer.channel
        least = max(offer.amount, terms.min_deposit if terms else 0)
        preferred = max(least, to_base_units(self._policy.deposit, decimals))
        seconds = min(offer.max_timeout_seconds, self._policy.authorization_seconds_max)
        return DepositWish(
            amounts=(preferred, least) if preferred > least else (least,),
            salt=Hash32.of(secrets.token_bytes(32)),
            valid_before=int(self._clock()) + max(60, seconds),
            low_water=self._low_water(preferred, decimals),
        )

    def _low_water(self, deposit: int, decimals: int) -> int:
        """What is topped up before it is needed; nothing, if it cannot be."""
        if not self._keys.may_deposit:
            return 0
        return min(to_base_units(self._policy.low_water, decimals), deposit // 4)

    # Which channels there are.

    async def _lanes(self, key: ChannelKey) -> list[Hash32]:
        if self._known is None:
            known: dict[ChannelKey, list[Hash32]] = defaultdict(list)
            for record in await self._recorded():
                if record.ledger.status is PayerStatus.OPEN:
                    known[key_in(record)].append(record.channel)
            if self._known is None:  # others may have read it too, and opened some
                self._known = known
        return self._known.setdefault(key, [])

    async def _recorded(self) -> list[PayerRecord]:
        """Every channel of x402's that is in the store; sessions are kept there too."""
        records = await self._ledger.store.channels(self._ledger.account)
        return [r for r in records if isinstance(r.config, ChannelConfig)]

    def _forget(self, channel: Hash32) -> None:
        for lanes in (self._known or {}).values():
            if channel in lanes:
                lanes.remove(channel)

    async def _open(
        self, key: ChannelKey, offer: Offer, target: Target, seen: int
    ) -> None:
        """Begin the next channel of a key: its salt can be found again from the key."""
        async with self._opening[key]:
            lanes = await self._lanes(key)
            if len(lanes) > seen:
                return  # somebody else opened one while we waited
            records = await self._recorded()
            index = sum(1 for record in records if key_in(record) == key)
            while True:
                config = await self._config(key, index)
                channel = channel_id(config, key.chain)
                if (await read_channel(self._chains[key.chain], channel)).unused:
                    break
                index += 1
            place = _place_of(offer, target)
            await self._ledger.add(self._fresh(key, offer, place, config, index))
            self.inquiry.trust(channel)
            lanes.append(channel)

    def _fresh(
        self,
        key: ChannelKey,
        offer: Offer,
        place: Place,
        config: ChannelConfig,
        index: int,
    ) -> PayerRecord:
        parallel = offer.channel.parallel if offer.channel and key.tagged else None
        ledger = PayerChannel(
            tagged=key.tagged,
            window=parallel.window if parallel else _STRICT_WINDOW,
            in_flight_max=parallel.in_flight_max if parallel else 1,
            headroom=to_base_units(self._policy.headroom, offer.asset.decimals),
        )
        return PayerRecord(
            channel=channel_id(config, key.chain),
            chain=key.chain,
            config=config,
            origin=key.origin,
            index=index,
            ledger=ledger,
            decimals=offer.asset.decimals,
            url=place.url,
            offer=place.offer,
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
        if offer.channel is None:
            return []
        known = await self._recorded()
        ours = {record.channel for record in known}
        found: list[Hash32] = []
        for authorizer in dict.fromkeys((self._keys.authorizer, self._keys.account)):
            key = key_of(offer, offer.channel, target, authorizer)
            found += await self._find_lost(key, offer, target, ours)
        return found

    async def _find_lost(
        self, key: ChannelKey, offer: Offer, target: Target, ours: set[Hash32]
    ) -> list[Hash32]:
        found: list[Hash32] = []
        index = 0
        while True:
            config = await self._config(key, index)
            channel = channel_id(config, key.chain)
            state = await read_channel(self._chains[key.chain], channel)
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

    async def _config(self, key: ChannelKey, index: int) -> ChannelConfig:
        purpose = json.dumps([*astuple(key), index], separators=(",", ":")).encode()
        secret = await self._keys.wallet.derive_secret(b"channel salt " + purpose)
        salt = PARALLEL_TAG + secret[4:] if key.tagged else b"\0" * 4 + secret[4:]
        return ChannelConfig(
            payer=self._keys.account,
            payer_authorizer=key.payer_authorizer,
            receiver=key.pay_to,
            receiver_authorizer=key.authorizer,
            token=key.token,
            withdraw_delay=key.withdraw_delay,
            salt=Hash32.of(salt),
        )

    async def aclose(self) -> None:
        """Stop asking about what is open; a restart asks again."""
        await self.inquiry.aclose()


def _place_of(offer: Offer, target: Target) -> Place:
    path = urlsplit(target.url).path
    return Place(
        url=f"{target.method} {target.origin}{path}", offer=json.dumps(offer.words)
    )
