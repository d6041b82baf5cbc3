"""
A payee: takes payments for routes, on one chain, in one token, to one account.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.errors import (
    ChainError,
    ConfigurationError,
    MainnetNotEnabled,
    MalformedMessage,
    StoreError,
)
from agentpay.evm.batch_settlement import MAX_WITHDRAW_DELAY, MIN_WITHDRAW_DELAY
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.hashing import checked_address
from agentpay.evm.networks import Network, find_network
from agentpay.evm.test_keys import refuse_test_key
from agentpay.facilitator import Facilitator
from agentpay.onchain import check_asset
from agentpay.payee.answers import KEEP_ANSWERS, AnswerPolicy, Answers, request_of
from agentpay.payee.books import ChannelBooks, ChannelPayment
from agentpay.payee.channel_sales import ChannelSales
from agentpay.payee.funding import ChannelFunding
from agentpay.payee.keeper import Keeper, KeeperPolicy
from agentpay.payee.offers import (
    PayeeSettings,
    make_offers,
    malformed,
    payment_required,
    unavailable,
)
from agentpay.payee.pricing import Route, Terms, base_units
from agentpay.payee.sales import Refusal, Sale
from agentpay.payee.settlement import Settlement
from agentpay.payee.sign_in import SignIns
from agentpay.payee.transfer_sales import TransferSales
from agentpay.ports import Signer
from agentpay.signers.wallet import Wallet
from agentpay.stores import Store, open_store
from agentpay.types import Address, Asset, Money
from agentpay.wire import parallel, payment_identifier
from agentpay.wire.headers import decode_json
from agentpay.wire.parallel import ParallelTerms
from agentpay.wire.x402 import (
    EIP3009,
    PAYMENT_SIGNATURE,
    PERMIT2,
    ExactPayload,
    PaymentPayload,
    Permit2Payload,
    parse_payment,
)
from agentpay.wire.x402_terms import accepted_offer, is_for
from agentpay.wire.x402_transfers import payment_id

WINDOW = 1024
IN_FLIGHT_MAX = 128
_DAY = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class _Works:
    """What a started payee runs on."""

    chain: RpcChain
    sender: TransactionSender
    store: Store
    keeper: Keeper
    settlement: Settlement
    channels: ChannelSales
    transfers: TransferSales
    answers: Answers
    sign_ins: SignIns


class Payee:
    """
    Takes payments for routes, on one chain, in one token, to one account.

    One payee owns its store: its ledgers are kept by this process alone.
    """

    def __init__(
        self,
        wallet: Wallet,
        *,
        pay_to: str | None = None,
        network: str | Network = "local",
        rpc_url: str | None = None,
        store: str = "memory:",
        authorizer: Signer | None = None,
        withdraw_delay: int = _DAY,
        min_deposit: Money = 0,
        transfer_methods: tuple[str, ...] = (EIP3009,),
        claim_at: Money = "$1",
        claim_every_seconds: float = 3600,
        poll_seconds: float = 2,
        answers: AnswerPolicy = KEEP_ANSWERS,
        allow_mainnet: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        `wallet` pays gas, and signs claims and refunds unless `authorizer` does;
        money goes to `pay_to` (to the wallet's own account, if not given). `store` is
        `"memory:"` or a file. With `permit2` among `transfer_methods`, payers may move
        the token by Permit2, which any ERC-20 allows; without `eip3009` only so.
        `claim_at` and `claim_every_seconds` say when vouchers are turned into money,
        and `answers` how much of what was sold is kept to be told again to who paid
        for it.

        Raises:
            ConfigurationError: An argument cannot be used.
            MainnetNotEnabled: Real money, and `allow_mainnet` is not set.
            UnsafeKey: A publicly known test key, and the chain is not local.
        """
        place = find_network(network)
        check_network(place, allow_mainnet=allow_mainnet)
        refuse_test_key(wallet.address, place.chain)
        if not MIN_WITHDRAW_DELAY <= withdraw_delay <= MAX_WITHDRAW_DELAY:
            raise ConfigurationError(
                f"withdraw_delay is 900 s to 30 days, not {withdraw_delay} s"
            )
        unknown = set(transfer_methods) - {EIP3009, PERMIT2}
        if unknown or not transfer_methods:
            raise ConfigurationError(f"no transfer method is called {sorted(unknown)}")
        self._wallet = wallet
        self._authorizer = authorizer or wallet
        self._rpc_url = rpc_url or place.rpc_url
        if not self._rpc_url:
            raise ConfigurationError(f"network {place.name} needs an rpc_url")
        self._store_url = store
        self._clock = clock
        decimals = place.usdc.decimals
        self.settings = PayeeSettings(
            asset=place.usdc,
            pay_to=_account(pay_to) if pay_to else wallet.address,
            authorizer=self._authorizer.address,
            withdraw_delay=withdraw_delay,
            parallel=ParallelTerms(window=WINDOW, in_flight_max=IN_FLIGHT_MAX),
            min_deposit=base_units(min_deposit, decimals, "min_deposit"),
            names=answers.bytes_each > 0,
            transfer_methods=transfer_methods,
            facilitator=wallet.address,
        )
        self._answers = answers
        self._policy = KeeperPolicy(
            claim_at=base_units(claim_at, decimals, "claim_at"),
            claim_every_seconds=claim_every_seconds,
            settle_at=base_units(claim_at, decimals, "claim_at"),
            poll_seconds=poll_seconds,
        )
        self._works: _Works | None = None
        self._starting = asyncio.Lock()

    @property
    def asset(self) -> Asset:
        """The token it is paid in."""
        return self.settings.asset

    @property
    def settlement(self) -> Settlement:
        """Claims, settles and refunds at once, instead of when policy says so."""
        return self._running.settlement

    @property
    def answers(self) -> Answers:
        """What it has answered of late, to tell it again."""
        return self._running.answers

    @property
    def sign_ins(self) -> SignIns:
        """Who has paid for what, and may come back."""
        return self._running.sign_ins

    @property
    def _running(self) -> _Works:
        if self._works is None:
            raise ConfigurationError("the payee is not started: await payee.start()")
        return self._works

    async def start(self) -> None:
        """
        Open the store, check the chain and the token, and follow the chain from now on.

        Raises:
            ChainError: The endpoint is out of reach or serves another chain, or the
                token is not what was declared.
            StoreError: The store cannot be opened.
        """
        if self._works is not None:
            return
        async with self._starting:
            if self._works is None:
                self._works = await self._build()
                self._works.keeper.start()

    async def stop(self) -> None:
        """Stop following the chain, and close the store."""
        works, self._works = self._works, None
        if works is None:
            return
        await works.keeper.stop()
        await works.sender.aclose()
        await works.chain.aclose()
        await works.store.close()

    async def _build(self) -> _Works:
        chain = RpcChain(
            self._rpc_url or "", chain_id=self.asset.chain, error_names=ERROR_NAMES
        )
        sender = TransactionSender(chain, key=self._wallet.gas_key())
        try:
            await chain.check()
            by_token = EIP3009 in self.settings.transfer_methods
            await check_asset(chain, self.asset, eip3009=by_token)
            store = await open_store(self._store_url)
        except BaseException:
            await sender.aclose()
            await chain.aclose()
            raise
        works = self._wire(chain, sender, store)
        try:
            await works.keeper.sync()
        except BaseException:
            await store.close()
            await sender.aclose()
            await chain.aclose()
            raise
        return works

    def _wire(self, chain: RpcChain, sender: TransactionSender, store: Store) -> _Works:
        settings, clock = self.settings, self._clock
        facilitator = Facilitator(chain=chain, sender=sender)
        settlement = Settlement(
            settings=settings,
            chain=chain,
            facilitator=facilitator,
            store=store.payee,
            authorizer=self._authorizer,
            clock=clock,
        )
        books = ChannelBooks(settings=settings, store=store.payee, clock=clock)
        funding = ChannelFunding(
            books=books, chain=chain, facilitator=facilitator, settlement=settlement
        )
        return _Works(
            chain=chain,
            sender=sender,
            store=store,
            settlement=settlement,
            keeper=Keeper(
                settings=settings,
                policy=self._policy,
                chain=chain,
                store=store.payee,
                settlement=settlement,
                clock=clock,
            ),
            channels=ChannelSales(
                books=books,
                funding=funding,
                chain=chain,
                settlement=settlement,
            ),
            answers=Answers(
                policy=self._answers,
                chain=self.asset.chain,
                store=store.payee,
                clock=clock,
            ),
            sign_ins=SignIns(chain=chain, store=store.payee, clock=clock),
            transfers=TransferSales(
                settings=settings,
                chain=chain,
                facilitator=facilitator,
                store=store.payee,
                clock=clock,
            ),
        )

    def terms(
        self,
        route: Route,
        *,
        resource: str,
        url: str,
        query: str = "",
        bound: bool = False,
    ) -> Terms:
        """
        A route's terms in base units of our token.

        Raises:
            ConfigurationError: The price cannot be expressed in it.
        """
        return Terms(
            maximum=base_units(
                route.price, self.asset.decimals, f"the price of {resource}"
            ),
            metered=route.metered,
            order=route.order,
            schemes=route.schemes,
            resource=resource,
            url=url,
            query=query,
            about=route.about,
            access_seconds=route.access_seconds,
            bound=bound,
        )

    async def answer(self, header: str | None, terms: Terms) -> Sale | Refusal:
        """
        Decide what a request's payment header buys; None is no payment.

        What is not known is answered 503, never 402: a 402 means that nothing moved.
        """
        if header is None:
            return payment_required(self.settings, terms, error="Payment required")
        try:
            payment = parse_payment(header)
        except MalformedMessage as error:
            return malformed(str(error), self.asset.chain)
        try:
            name = payment_identifier.read_name(payment.extensions)
            if name is None or not self.settings.names:
                return await self._sell(payment, terms)
            digest = payment_identifier.digest_of(
                decode_json(header, name=PAYMENT_SIGNATURE)
            )
            sell = partial(self._sell, payment, terms)
            return await self.answers.once(name, digest, terms, sell)
        except MalformedMessage as error:
            return malformed(str(error), self.asset.chain)
        except (ChainError, StoreError) as error:
            paid_with = payment_id(payment, self.asset)
            return unavailable(error, self.asset.chain, payment=paid_with)

    async def _sell(self, payment: PaymentPayload, terms: Terms) -> Sale | Refusal:
        """Sell, or find what this payment was answered when it came before."""
        outcome = await self._decide(payment, terms)
        if not isinstance(outcome, Refusal) or not outcome.presented:
            return outcome
        earlier = await self.answers.find(outcome.presented, request_of(terms))
        return replace(outcome, earlier=earlier)

    async def _decide(self, payment: PaymentPayload, terms: Terms) -> Sale | Refusal:
        offer = None
        if is_for(payment.resource, terms.url, bound=terms.bound):
            offer = accepted_offer(payment, make_offers(self.settings, terms))
        works, payload = self._running, payment.payload
        if isinstance(payload, ExactPayload | Permit2Payload):
            return await works.transfers.answer(
                payload, terms, offer, payment.extensions
            )
        if not works.keeper.fresh():
            await works.keeper.sync()
        channel_payment = ChannelPayment(
            payload=payload,
            agreed=offer is not None,
            query=parallel.is_query(payment.extensions),
            extensions=payment.extensions,
        )
        return await works.channels.answer(channel_payment, terms)


def check_network(network: Network, *, allow_mainnet: bool) -> None:
    """
    Raises:
        MainnetNotEnabled: Real money, and nobody said yes to that.
    """
    if network.real_money and not allow_mainnet:
        raise MainnetNotEnabled(
            f"{network.name} is real money and these contracts are not audited for it:"
            " pass allow_mainnet=True if you accept that (see SECURITY.md)"
        )


def _account(text: str) -> Address:
    try:
        return checked_address(text)
    except ValueError as error:
        raise ConfigurationError(f"pay_to: {error}") from error
