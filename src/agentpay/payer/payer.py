"""
A payer: turns the 402 of a payee into one signed credential, within a budget.

Reserve, sign, record: in that order, and durable before anything is signed.
"""

import time
from collections.abc import Callable, Mapping

from agentpay.core.budget import Hold, Released
from agentpay.errors import BudgetExceeded, OfferUntrusted
from agentpay.evm.session_escrow import SessionConfig
from agentpay.onchain import check_asset
from agentpay.payer.approvals import Approvals
from agentpay.payer.attempts import Attempts
from agentpay.payer.batch_kind import BatchKind
from agentpay.payer.channel_kind import ChannelKind
from agentpay.payer.channel_payment import ChannelPayment
from agentpay.payer.channels import Channels
from agentpay.payer.choice import Offered, acceptable, best
from agentpay.payer.keys import PayerKeys
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.mpp_offers import OWN_WAYS
from agentpay.payer.offer import Offer
from agentpay.payer.own_holds import OWN, is_unsigned, read_own
from agentpay.payer.own_transfers import OwnTransfers
from agentpay.payer.payment import Asker, Payment, Target
from agentpay.payer.policy import Budget, Policy, scale
from agentpay.payer.prices import Prices
from agentpay.payer.running import RunningRequest
from agentpay.payer.session_kind import SessionKind
from agentpay.payer.session_payment import SessionPayment
from agentpay.payer.sign_in import Returns
from agentpay.payer.transfer_holds import resolve_hold, transfer_of
from agentpay.payer.transfer_payment import TransferPayments
from agentpay.ports import Chain, PayerStore
from agentpay.records import PayerRecord
from agentpay.sending_ports import Relay
from agentpay.types import MONEY_DECIMALS, Asset, ChainId, Hash32
from agentpay.wire.mpp.evm_session import SESSION
from agentpay.wire.x402 import BATCH_SETTLEMENT


def _do_nothing(channel: Hash32) -> None:
    del channel


class Payer:
    """Pays for requests. It sends none itself: see `http.transport`."""

    def __init__(
        self,
        *,
        keys: PayerKeys,
        budget: Budget,
        policy: Policy,
        assets: tuple[Asset, ...],
        chains: Mapping[ChainId, Chain],
        store: PayerStore,
        ask: Asker,
        relays: Mapping[ChainId, Relay],
        clock: Callable[[], float] = time.time,
        cheated: Callable[[Hash32], None] = _do_nothing,
    ) -> None:
        """`cheated` is told of channels whose payee contradicted our signatures."""
        self.policy = policy
        self.keys = keys
        self._assets = assets
        self._chains = chains
        self._clock = clock
        self._ask = ask
        self._prices = Prices(policy.price_rise_max)
        self._verified: set[Asset] = set()
        self._verifying: Attempts[Asset, None] = Attempts()
        for asset in assets:
            budget.limits(asset.decimals)
        self.ledger = PayerLedger(
            account=keys.account,
            store=store,
            limits=budget.limits,
            policy=policy,
            clock=clock,
            cheated=cheated,
        )
        self.returns = Returns(keys, clock=clock)
        self.approvals = Approvals(signer=keys.wallet, chains=chains, policy=policy)
        self.transfers = TransferPayments(
            signer=keys.wallet,
            ledger=self.ledger,
            approvals=self.approvals,
            policy=policy,
            assets=assets,
            chains=chains,
        )
        self.own_transfers = OwnTransfers(self.ledger, keys.wallet, policy, relays)
        self.channels = self._channels(
            BatchKind(
                keys=keys,
                ledger=self.ledger,
                assets=assets,
                chains=chains,
                approvals=self.approvals,
            )
        )
        self.sessions = self._channels(
            SessionKind(
                keys=keys,
                ledger=self.ledger,
                policy=policy,
                assets=assets,
                chains=chains,
                approvals=self.approvals,
            )
        )

    def _channels(self, kind: ChannelKind) -> Channels:
        return Channels(
            kind,
            keys=self.keys,
            ledger=self.ledger,
            policy=self.policy,
            assets=self._assets,
            chains=self._chains,
            ask=self._ask,
            clock=self._clock,
        )

    def allowed(self, offered: Offered) -> tuple[Offer, ...]:
        """
        The offers of a 402 that our policy allows.

        Raises:
            NoAcceptableOffer: There is none.
        """
        now = int(self._clock())
        return acceptable(offered, assets=self._assets, policy=self.policy, now=now)

    async def choose(self, offered: Offered, target: Target) -> Offer:
        """
        The best offer of a 402 that our policy allows.

        Raises:
            NoAcceptableOffer: There is none.
        """
        offers = self.allowed(offered)
        opened = [offer for offer in offers if await self._is_open(offer, target)]
        return best(offers, opened=opened, policy=self.policy)

    async def _is_open(self, offer: Offer, target: Target) -> bool:
        """Whether there is a channel to its payee, with money in it already."""
        channels = self.channels_for(offer)
        return channels is not None and await channels.has_open(offer, target)

    def channels_for(self, offer: Offer) -> Channels | None:
        """Our channels of the kind that pays an offer; None if a transfer does."""
        if offer.scheme == BATCH_SETTLEMENT:
            return self.channels
        return self.sessions if offer.scheme == SESSION else None

    def channels_of(self, record: PayerRecord) -> Channels:
        """Our channels of a record's kind."""
        is_session = isinstance(record.config, SessionConfig)
        return self.sessions if is_session else self.channels

    async def pay(self, offer: Offer, target: Target) -> Payment:
        """
        One credential for one request: that of an earlier request for the same, where
        a transfer was to pay for it and nobody knows what became of it (C8).

        Raises:
            BudgetExceeded: It is above the budget; nothing was signed.
            ChannelUnusable: No channel can be used for it; nothing was signed.
            ChallengeUsed: Its challenge was paid before; nothing was signed.
            KeyElsewhere: It needs the wallet's signature, which is only watched.
            UnsuitableToken: The token is not what was declared; nothing was signed.
            PriceRose: It costs many times what it first did; nothing was signed.
            HostQuarantined: Its host took payments for nothing; nothing was signed.
            NonceBusy: Our own transaction waits for another one.
            PaymentOutcomeUnknown: Our own transaction was sent, and is not mined.
            ChainError: The chain is needed first, and cannot be read.
        """
        # Whatever is offered now: it may be another way than the first time.
        by_transfer = self.channels_for(offer) is None and offer.method not in OWN_WAYS
        if by_transfer or await self.transfers.any_left():
            earlier = await self.transfers.carry_on(target)
            if earlier is not None:
                return earlier
        price = scale(offer.amount, offer.asset.decimals)
        self._prices.check(target, price)
        await self._verify(offer.asset)
        try:
            payment = await self._pay(offer, target)
        except BudgetExceeded:
            if not await self._free_what_expired():
                raise
            payment = await self._pay(offer, target)
        self._prices.agree(target, price)
        return payment

    async def _pay(self, offer: Offer, target: Target) -> Payment:
        channels = self.channels_for(offer)
        if channels is not None:
            return await channels.pay(offer, target)
        chain = self._chains[offer.asset.chain]
        if offer.method in OWN_WAYS:
            return await self.own_transfers.pay(offer, target, chain)
        return await self.transfers.pay(offer, target, chain)

    def running(
        self, payment: Payment, offer: Offer, target: Target
    ) -> RunningRequest | None:
        """What pays for an answer while it flows; None if a transfer paid for it."""
        channels = self.channels_for(offer)
        if channels is None or not isinstance(payment, ChannelPayment | SessionPayment):
            return None
        return RunningRequest(
            payment,
            offer,
            target,
            channels=channels,
            ledger=self.ledger,
            policy=self.policy,
            ask=self._ask,
        )

    async def _verify(self, asset: Asset) -> None:
        """Read once what the token says of itself: an offer's `extra` is not proof."""
        if asset not in self._verified:
            await self._verifying.share(asset, lambda: self._read(asset))

    async def _read(self, asset: Asset) -> None:
        chain = self._chains.get(asset.chain)
        if chain is None:
            raise OfferUntrusted(f"no RPC endpoint is set for chain {asset.chain}")
        await chain.check()
        await check_asset(chain, asset)
        self._verified.add(asset)

    async def aclose(self) -> None:
        """Stop asking about what is open; a restart asks again."""
        await self._verifying.aclose()
        await self.channels.aclose()
        await self.sessions.aclose()

    async def resolve(self) -> int:
        """
        Ask the chain about every transfer and deposit whose outcome is open.

        Returns how many still are.

        Raises:
            ChainError: The chain could not be asked.
        """
        budget = await self.ledger.store.budget(self.ledger.account)
        left = 0
        for hold in budget.holds:
            if hold.id.startswith("transfer "):
                left += not await self._resolve_transfer(hold)
            elif hold.id.startswith(OWN):
                left += not await self._resolve_own(hold)
            else:
                left += not await self._resolve_deposit(hold)
        return left

    async def _resolve_transfer(self, hold: Hold) -> bool:
        transfer = transfer_of(hold, self._assets)
        if transfer is None or transfer.asset.chain not in self._chains:
            return False  # of another network, kept in the same store
        chain = self._chains[transfer.asset.chain]
        return await resolve_hold(hold, transfer, chain=chain, ledger=self.ledger)

    async def _resolve_own(self, hold: Hold) -> bool:
        if is_unsigned(hold):  # it has not left us, and never will as it is
            await self.ledger.move(MONEY_DECIMALS, Released(id=hold.id))
            return True
        own = read_own(hold, self._assets)
        if own is None or own.asset.chain not in self._chains:
            return False  # of another network, kept in the same store
        return await self.own_transfers.resolve(own, self._chains[own.asset.chain])

    async def _resolve_deposit(self, hold: Hold) -> bool:
        record = await self.ledger.read(Hash32(hold.detail))
        if record is None or record.ledger.deposit is None:
            return False
        if record.chain not in self._chains:
            return False
        inquiry = self.channels_of(record).inquiry
        return await inquiry.resolve_deposit(record, record.ledger.deposit)

    async def _free_what_expired(self) -> bool:
        """Whether signatures that can no longer move money gave some of it back."""
        budget = await self.ledger.store.budget(self.ledger.account)
        now = self._clock()
        if all(hold.valid_before >= now for hold in budget.holds):
            return False
        return await self.resolve() < len(budget.holds)
