"""
A payee: takes payments for routes, on one chain, in one token, to one account.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from agentpay.core.sending import FeePolicy
from agentpay.errors import (
    ChainError,
    ConfigurationError,
    FacilitatorUnavailable,
    MalformedMessage,
    StoreError,
)
from agentpay.evm.addresses import SESSION_ESCROW
from agentpay.evm.networks import Network, find_network
from agentpay.evm.test_keys import refuse_test_key
from agentpay.one_attempt import OneAttempt
from agentpay.payee.answers import KEEP_ANSWERS, AnswerPolicy, Answers, request_of
from agentpay.payee.arguments import (
    account_of,
    accounts_of,
    check_delay,
    check_network,
    check_own_gas,
    deposit_wei_of,
    endpoint_of,
    limit_of,
    methods_of,
    units_of,
)
from agentpay.payee.channel_reading import ChannelReading
from agentpay.payee.figures import Figures, read_figures
from agentpay.payee.finality import Finality, finality_of
from agentpay.payee.keeper import KeeperPolicy
from agentpay.payee.mpp_challenges import with_challenges
from agentpay.payee.mpp_offers import Asked, MppTerms, failed
from agentpay.payee.offers import (
    NO_PAYMENT,
    PayeeSettings,
    accepted,
    malformed,
    payment_required,
    unavailable,
)
from agentpay.payee.pricing import Route, Terms, terms_of
from agentpay.payee.sales import Refusal, Sale
from agentpay.payee.settlement import Settlement
from agentpay.payee.sign_in import SignIns
from agentpay.payee.watched import Watched
from agentpay.payee.works import Plan, Works, open_works
from agentpay.ports import Settler, Signer
from agentpay.signers.wallet import Wallet
from agentpay.types import Asset, Money
from agentpay.wire import payment_identifier
from agentpay.wire.headers import decode_json
from agentpay.wire.mpp.credential import Credential
from agentpay.wire.mpp.evm_charge import BY_PERMIT2
from agentpay.wire.mpp.evm_session import SESSION
from agentpay.wire.parallel import ParallelTerms
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    PAYMENT_SIGNATURE,
    ExactPayload,
    Permit2Payload,
)
from agentpay.wire.x402_transfers import payment_id
from agentpay.wire.x402_vouchers import ReadPayment, VoucherReader

_log = logging.getLogger(__name__)

WINDOW = 1024
IN_FLIGHT_MAX = 128
_DAY = 24 * 3600


class Payee:
    """
    Takes payments for routes, on one chain, in one token, to one account.

    One payee owns its store, and no other is started on it.
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
        facilitator: Settler | None = None,
        withdraw_delay: int = _DAY,
        min_deposit: Money = 0,
        transfer_methods: tuple[str, ...] | None = None,
        wallet_factories: tuple[str, ...] = (),
        sponsor_approvals_up_to: int = 0,
        deposit_wei_per_hour: int | None = None,
        batch_seconds: float = 0,
        claim_at: Money = "$1",
        claim_every_seconds: float = 3600,
        exposure_max: Money | None = None,
        finality: Finality | None = None,
        poll_seconds: float = 2,
        answers: AnswerPolicy = KEEP_ANSWERS,
        fees: FeePolicy | None = None,
        mpp: MppTerms | None = None,
        allow_mainnet: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        `wallet` pays gas unless `facilitator` does (`RemoteFacilitator`), and signs
        claims and refunds unless `authorizer` does; money goes to `pay_to` (or to the
        wallet's own account). `rpc_url` may be several, with commas between. `store` is
        `"memory:"` or a file. With `permit2` among `transfer_methods`, payers may move
        the token by Permit2; if not given, they do so where it has no EIP-3009.
        `wallet_factories` may be called to make payers' wallets (ERC-6492), and for the
        gas of each payer's approval of Permit2 `wallet` pays `sponsor_approvals_up_to`
        wei, if above 0; for that of all deposits of an hour `deposit_wei_per_hour`, by
        default 0.02 ether on Base, and any elsewhere. With `batch_seconds`,
        transfers wait so long for others, and share a transaction. `fees` bound what
        gas costs it. `claim_at` and `claim_every_seconds` say when vouchers become
        money, and `answers` how much is kept to be told again to who paid for it.
        Nothing is sold on a channel of which more than `exposure_max` would be
        unclaimed, and half of that is claimed. `finality` says how deep a deposit has
        to be before all of it is spent, and a large transfer before it buys. With
        `mpp`, whatever takes one transfer takes it by MPP too, and every 402 says so;
        what takes vouchers of a channel takes those of MPP's sessions, if `pay_to` is
        the account of `wallet` or of `authorizer`, who can settle them.

        Raises:
            ConfigurationError: An argument cannot be used.
            MainnetNotEnabled: Real money, and `allow_mainnet` is not set.
            UnsafeKey: A publicly known test key, and the chain is not local.
        """
        place = find_network(network)
        check_network(place, allow_mainnet=allow_mainnet)
        refuse_test_key(wallet.address, place.chain)
        check_delay(withdraw_delay)
        endpoint = endpoint_of(rpc_url, place)
        check_own_gas(sponsor_approvals_up_to, batch_seconds, remote=bool(facilitator))
        if facilitator and mpp and BY_PERMIT2 in mpp.credential_types:
            raise ConfigurationError(
                "MPP's permit2 is sent by the payee's own wallet: leave it out of"
                " credential_types, or the facilitator"
            )
        self._facilitator, self._clock = facilitator, clock
        self.watched = Watched()
        account = account_of(pay_to) if pay_to else wallet.address
        signs = authorizer or wallet
        # Only the account that a session pays may settle it, so its key must be here.
        sells_sessions = account in (wallet.address, signs.address)
        enough = units_of(claim_at, place.usdc.decimals, "claim_at")
        exposed = limit_of(exposure_max, place.usdc.decimals, "exposure_max")
        enough = min(enough, exposed // 2 if exposed else enough)
        self.settings = PayeeSettings(
            asset=place.usdc,
            pay_to=account,
            authorizer=signs.address,
            withdraw_delay=withdraw_delay,
            parallel=ParallelTerms(window=WINDOW, in_flight_max=IN_FLIGHT_MAX),
            min_deposit=units_of(min_deposit, place.usdc.decimals, "min_deposit"),
            names=answers.bytes_each > 0,
            transfer_methods=methods_of(transfer_methods, place.usdc),
            facilitator=facilitator.address if facilitator else wallet.address,
            sponsors_approvals=sponsor_approvals_up_to > 0,
            escrow=SESSION_ESCROW if mpp is not None and sells_sessions else None,
            wallet_factories=accounts_of(wallet_factories, "wallet_factories"),
            exposure_max=exposed,
            finality=finality_of(finality, place),
        )
        self._plan = Plan(
            wallet=wallet,
            authorizer=signs,
            rpc_url=endpoint,
            store_url=store,
            keeping=KeeperPolicy(
                claim_at=enough,
                settle_at=enough,
                claim_every_seconds=claim_every_seconds,
                poll_seconds=poll_seconds,
            ),
            answers=answers,
            fees=fees,
            mpp=mpp,
            batch_seconds=batch_seconds,
            sponsor_wei=sponsor_approvals_up_to,
            deposit_wei=deposit_wei_of(deposit_wei_per_hour, place),
            watched=self.watched,
        )
        self._reader, self._reading = VoucherReader(), ChannelReading()
        self._works: Works | None = None
        self._starting = OneAttempt(self._start)

    @property
    def asset(self) -> Asset:
        """The token it is paid in."""
        return self.settings.asset

    @property
    def mpp(self) -> MppTerms | None:
        """How it takes payments by MPP, if it does."""
        return self._plan.mpp

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
    def _running(self) -> Works:
        if self._works is None:
            raise ConfigurationError("the payee is not started: await payee.start()")
        return self._works

    async def start(self) -> None:
        """
        Open the store, check the chain and the token, and follow the chain from now on.

        Whoever asks meanwhile waits for the same attempt, and who is cancelled leaves
        it to them: `stop` gives it up. A second after one failed there is another, not
        before.

        Raises:
            ChainError: The endpoint is out of reach or serves another chain, or the
                token is not what was declared.
            StoreError: The store cannot be opened, or keeps another payee's books.
        """
        if self._works is None:
            await self._starting.result()

    async def _start(self) -> None:
        self._works = works = await open_works(
            self._plan,
            settings=self.settings,
            facilitator=self._facilitator,
            clock=self._clock,
        )
        if works.sessions is None:
            self.settings = replace(self.settings, escrow=None)
        works.keeper.start()
        try:
            await self._ready()
        except FacilitatorUnavailable as error:
            _log.warning("what costs money is a 503 for now: %s", error)

    async def figures(self) -> Figures:
        """What is owed to us now. May raise a `ChainError` or a `StoreError`."""
        gas = None if self._facilitator else self._plan.wallet.address
        return await read_figures(self._running, gas, now=self._clock())

    async def _ready(self) -> None:
        """Have the facilitator up, and offer `upto` in its name."""
        works = self._works
        if works is None:
            return
        await works.facilitator.start(works.chain, self.asset)
        address = works.facilitator.address if works.upto else None
        if address != self.settings.facilitator:
            self.settings = replace(self.settings, facilitator=address)
            self._works = works.on_terms(self.settings, clock=self._clock)

    async def stop(self) -> None:
        """Stop following the chain, and close the store; give up a start under way."""
        await self._starting.stop()
        works, self._works = self._works, None
        if works is not None:
            await works.close()

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
            ConfigurationError: The price cannot be expressed in it, or no channel may
                owe us so much.
        """
        terms = terms_of(route, resource=resource, decimals=self.asset.decimals)
        limit, price = self.settings.exposure_max, terms.maximum
        if limit is not None and price > limit and BATCH_SETTLEMENT in route.schemes:
            raise ConfigurationError(
                f"the price of {resource} is {price}, above exposure_max ({limit}):"
                " no channel could ever pay it"
            )
        return terms.at(resource, url=url, query=query, bound=bound)

    async def answer(
        self, header: str | None, terms: Terms, *, why: str = NO_PAYMENT
    ) -> Sale | Refusal:
        """
        Decide what a request's payment header buys; None is no payment, and asks for
        one, saying `why`.

        What is not known is answered 503, never 402: a 402 means that nothing moved.
        """
        try:
            # While a facilitator is not up, nobody is asked to pay: a 503 says why.
            await self._ready()
            if header is None:
                return payment_required(self.settings, terms, error=why)
            payment = self._reader.read(header)
        except MalformedMessage as error:
            return malformed(str(error), self.asset.chain)
        except (ChainError, StoreError) as error:
            return unavailable(error, self.asset.chain)
        try:
            name = payment_identifier.read_name(payment.extensions)
            if name is None or not self.settings.names:
                return await self._sell(payment, terms)
            digest = payment_identifier.digest_of(
                decode_json(header, name=PAYMENT_SIGNATURE)
            )
            sell = partial(self._sell, payment, terms, name=name)
            return await self.answers.once(name, digest, terms, sell)
        except MalformedMessage as error:
            return malformed(str(error), self.asset.chain)
        except (ChainError, StoreError) as error:
            paid_with = payment_id(payment.whole, self.asset)
            return unavailable(error, self.asset.chain, payment=paid_with)

    async def answer_credential(
        self, credential: Credential, terms: Terms, asked: Asked
    ) -> Sale | Refusal:
        """Decide what a `Payment` credential buys, as `answer` does."""
        works = self._running
        if works.charges is None:
            raise ConfigurationError("the payee takes no payments by MPP: pass mpp=")
        try:
            await self._ready()
            if works.sessions is None or credential.challenge.intent != SESSION:
                return await works.charges.answer(credential, terms, asked)
            if not works.keeper.fresh():
                await works.keeper.sync()
            choices = (terms, *asked.alternatives)
            return await works.sessions.answer(credential, choices, asked)
        except (ChainError, StoreError) as error:
            return unavailable(error, self.asset.chain)

    def refuse(
        self, refusal: Refusal, terms: Terms, asked: Asked, *, by_mpp: bool = False
    ) -> Refusal:
        """
        A refusal as it leaves: a 402 has what MPP offers too, if that is spoken, and
        to who paid by MPP everything is said as MPP says it.
        """
        if self.mpp is None:
            return refusal
        if by_mpp:
            refusal = failed(refusal)
        now = int(self._clock())
        return with_challenges(refusal, self.settings, self.mpp, terms, asked, now=now)

    async def _sell(
        self, payment: ReadPayment, terms: Terms, *, name: str = ""
    ) -> Sale | Refusal:
        """Sell, or find what this payment was answered when it came before."""
        outcome = await self._decide(payment, terms, name)
        if not isinstance(outcome, Refusal) or not outcome.presented:
            return outcome
        earlier = await self.answers.find(outcome.presented, request_of(terms))
        return replace(outcome, earlier=earlier)

    async def _decide(
        self, payment: ReadPayment, terms: Terms, name: str
    ) -> Sale | Refusal:
        works, payload = self._running, payment.known.payload
        if isinstance(payload, ExactPayload | Permit2Payload):
            offer = accepted(self.settings, payment.known, terms)
            # The chain shows what was signed, and not how its payer named that.
            return await works.transfers.answer(
                payload, terms, offer, payment.extensions, only_for=name
            )
        if not works.keeper.fresh():
            await works.keeper.sync()
        said = self._reading.read(payment, terms, self.settings)
        return await works.channels.answer(said, terms)
