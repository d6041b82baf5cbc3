"""
What a started payee runs on, and how it is put together.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from agentpay.chain.relay import TransactionRelay
from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.core.sending import FeePolicy
from agentpay.errors import UnsuitableEscrow, UnsuitableToken
from agentpay.evm.addresses import MULTICALL3, SESSION_ESCROW
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.session_escrow import Escrow
from agentpay.evm.test_keys import refuse_test_key
from agentpay.facilitator.embedded import Facilitator
from agentpay.facilitator.session_desk import EscrowDesk
from agentpay.facilitator.sponsor import Sponsor, SponsorLimits
from agentpay.onchain import check_asset
from agentpay.payee.answers import AnswerPolicy, Answers
from agentpay.payee.books import ChannelBooks
from agentpay.payee.channel_sales import ChannelSales
from agentpay.payee.charges import Charges
from agentpay.payee.funding import ChannelFunding
from agentpay.payee.keeper import Keeper, KeeperPolicy
from agentpay.payee.mpp_offers import MppTerms
from agentpay.payee.mpp_sales import ChargeSales
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.served import ServedPayments
from agentpay.payee.session_books import SessionBooks
from agentpay.payee.session_closing import SessionClosing
from agentpay.payee.session_funding import SessionFunding
from agentpay.payee.session_sales import SessionSales
from agentpay.payee.session_settlement import SessionSettlement
from agentpay.payee.settlement import Settlement
from agentpay.payee.sign_in import SignIns
from agentpay.payee.transfer_sales import TransferSales
from agentpay.ports import Settler, Signer
from agentpay.signers.wallet import Wallet
from agentpay.stores import Store, open_store

_log = logging.getLogger(__name__)

APPROVALS_PER_HOUR = 100
"""Of payers whose gas we pay: what strangers can make us spend is bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a payee was told to run on."""

    wallet: Wallet
    """Pays gas, where the facilitator is our own."""
    authorizer: Signer
    rpc_url: str
    store_url: str
    keeping: KeeperPolicy
    answers: AnswerPolicy
    fees: FeePolicy | None = None
    """What gas may cost; None is a bound that real chains rarely reach."""
    mpp: MppTerms | None = None
    sponsor_wei: int = 0
    """For each payer's approval of Permit2, where the facilitator is our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Works:
    """What a started payee runs on."""

    chain: RpcChain
    sender: TransactionSender
    facilitator: Settler
    store: Store
    keeper: Keeper
    settlement: Settlement
    channels: ChannelSales
    transfers: TransferSales
    charges: ChargeSales | None
    """None where MPP is not spoken."""
    sessions: SessionSales | None
    """None where none are sold: MPP is not spoken, or there is no escrow for them."""
    session_settlement: SessionSettlement | None
    answers: Answers
    mpp: MppTerms | None
    sign_ins: SignIns

    def on_terms(self, settings: PayeeSettings, *, clock: Callable[[], float]) -> Self:
        """The same, selling on other terms from now on."""
        channels, transfers = _sales(
            settings,
            chain=self.chain,
            facilitator=self.facilitator,
            settlement=self.settlement,
            store=self.store,
            clock=clock,
        )
        charges = _charges(
            self.mpp,
            settings,
            chain=self.chain,
            transfers=transfers,
            answers=self.answers,
            store=self.store,
            clock=clock,
        )
        sessions = _sessions(
            self.mpp,
            settings,
            settlement=self.session_settlement,
            answers=self.answers,
            store=self.store,
            clock=clock,
        )
        return replace(
            self,
            channels=channels,
            transfers=transfers,
            charges=charges,
            sessions=sessions,
        )

    async def close(self) -> None:
        """Stop following the chain, and close everything."""
        await self.keeper.stop()
        await self.facilitator.stop()
        await self.sender.aclose()
        await self.chain.aclose()
        await self.store.close()


async def open_works(
    plan: Plan,
    *,
    settings: PayeeSettings,
    facilitator: Settler | None,
    clock: Callable[[], float],
) -> Works:
    """
    Check the chain and the token, open the store, and read what happened meanwhile.

    Raises:
        ChainError: The endpoint is out of reach or serves another chain, or the token
            is not what was declared.
        StoreError: The store cannot be opened.
    """
    chain = RpcChain(
        plan.rpc_url, chain_id=settings.asset.chain, error_names=ERROR_NAMES
    )
    refuse_test_key(plan.wallet.address, settings.asset.chain)
    try:
        await chain.check()
        await check_asset(chain, settings.asset)
        await _check_contracts(chain, settings)
        store = await open_store(plan.store_url)
    except BaseException:
        await chain.aclose()
        raise
    sender = TransactionSender(
        chain, key=plan.wallet.gas_key(), fees=plan.fees, book=store.payee
    )
    settler = facilitator or Facilitator(
        chain=chain,
        senders=[sender],
        wallet_factories=settings.wallet_factories,
        sponsor=_sponsor(plan, chain, clock=clock),
    )
    try:
        works = _wire(
            plan,
            settings,
            chain=chain,
            sender=sender,
            facilitator=settler,
            sessions=await _sessions_kept(
                plan, settings, chain=chain, sender=sender, store=store, clock=clock
            ),
            store=store,
            clock=clock,
        )
        await sender.resume()
        await works.keeper.sync()
    except BaseException:
        await store.close()
        await sender.aclose()
        await chain.aclose()
        raise
    return works


def _sponsor(
    plan: Plan, chain: RpcChain, *, clock: Callable[[], float]
) -> Sponsor | None:
    if not plan.sponsor_wei:
        return None
    limits = SponsorLimits(
        wei_each=plan.sponsor_wei, wei_per_hour=APPROVALS_PER_HOUR * plan.sponsor_wei
    )
    relay = TransactionRelay(chain)
    return Sponsor(chain=chain, relay=relay, limits=limits, clock=clock)


async def _sessions_kept(
    plan: Plan,
    settings: PayeeSettings,
    *,
    chain: RpcChain,
    sender: TransactionSender,
    store: Store,
    clock: Callable[[], float],
) -> SessionSettlement | None:
    """
    What looks after sessions; None where none are sold, and none are left.

    What is due on sessions that were sold is taken also where none are sold any more.
    """
    if settings.escrow is None and not await _has_sessions(store):
        return None
    escrow = settings.escrow or SESSION_ESCROW
    desk = EscrowDesk(
        chain=chain,
        senders=[sender],
        payee=plan.wallet,
        asset=settings.asset,
        escrow=Escrow(chain=settings.asset.chain, contract=escrow),
    )
    try:
        await desk.start()
    except UnsuitableEscrow as error:
        _log.warning("no sessions are sold: %s", error)
        return None
    return SessionSettlement(desk=desk, store=store.payee, clock=clock)


async def _has_sessions(store: Store) -> bool:
    due = await store.payee.claimable(sessions=True, at_least=1, limit=1)
    return bool(due or await store.payee.closing(sessions=True, limit=1))


async def _check_contracts(chain: RpcChain, settings: PayeeSettings) -> None:
    if settings.wallet_factories and not await chain.code(MULTICALL3):
        raise UnsuitableToken(
            f"there is no Multicall3 on chain {chain.chain_id}, which wallet_factories"
            " need: leave them out"
        )


def _wire(
    plan: Plan,
    settings: PayeeSettings,
    *,
    chain: RpcChain,
    sender: TransactionSender,
    facilitator: Settler,
    sessions: SessionSettlement | None,
    store: Store,
    clock: Callable[[], float],
) -> Works:
    settlement = Settlement(
        settings=settings,
        chain=chain,
        facilitator=facilitator,
        store=store.payee,
        authorizer=plan.authorizer,
        clock=clock,
    )
    keeper = Keeper(
        settings=settings,
        policy=plan.keeping,
        chain=chain,
        store=store.payee,
        settlement=settlement,
        sessions=sessions,
        served=ServedPayments(
            settings=settings,
            chain=chain,
            facilitator=facilitator,
            store=store.payee,
            clock=clock,
        ),
        clock=clock,
    )
    answers = Answers(
        policy=plan.answers, chain=chain.chain_id, store=store.payee, clock=clock
    )
    channels, transfers = _sales(
        settings,
        chain=chain,
        facilitator=facilitator,
        settlement=settlement,
        store=store,
        clock=clock,
    )
    charges = _charges(
        plan.mpp,
        settings,
        chain=chain,
        transfers=transfers,
        answers=answers,
        store=store,
        clock=clock,
    )
    return Works(
        chain=chain,
        sender=sender,
        facilitator=facilitator,
        store=store,
        keeper=keeper,
        settlement=settlement,
        channels=channels,
        transfers=transfers,
        charges=charges,
        sessions=_sessions(
            plan.mpp,
            settings,
            settlement=sessions,
            answers=answers,
            store=store,
            clock=clock,
        ),
        session_settlement=sessions,
        answers=answers,
        mpp=plan.mpp,
        sign_ins=SignIns(chain=chain, store=store.payee, clock=clock),
    )


def _sessions(
    mpp: MppTerms | None,
    settings: PayeeSettings,
    *,
    settlement: SessionSettlement | None,
    answers: Answers,
    store: Store,
    clock: Callable[[], float],
) -> SessionSales | None:
    if mpp is None or settings.escrow is None or settlement is None:
        return None
    books = SessionBooks(settings=settings, store=store.payee, clock=clock)
    return SessionSales(
        books=books,
        mpp=mpp,
        funding=SessionFunding(books=books, settlement=settlement),
        closing=SessionClosing(books=books, settlement=settlement),
        answers=answers,
    )


def _charges(
    mpp: MppTerms | None,
    settings: PayeeSettings,
    *,
    chain: RpcChain,
    transfers: TransferSales,
    answers: Answers,
    store: Store,
    clock: Callable[[], float],
) -> ChargeSales | None:
    if mpp is None:
        return None
    charges = Charges(
        settings=settings,
        mpp=mpp,
        transfers=transfers,
        chain=chain,
        relay=TransactionRelay(chain),
        store=store.payee,
    )
    return ChargeSales(
        settings=settings,
        mpp=mpp,
        charges=charges,
        transfers=transfers,
        answers=answers,
        store=store.payee,
        clock=clock,
    )


def _sales(
    settings: PayeeSettings,
    *,
    chain: RpcChain,
    facilitator: Settler,
    settlement: Settlement,
    store: Store,
    clock: Callable[[], float],
) -> tuple[ChannelSales, TransferSales]:
    books = ChannelBooks(settings=settings, store=store.payee, clock=clock)
    funding = ChannelFunding(
        books=books, chain=chain, facilitator=facilitator, settlement=settlement
    )
    channels = ChannelSales(
        books=books, funding=funding, chain=chain, settlement=settlement
    )
    transfers = TransferSales(
        settings=settings,
        chain=chain,
        facilitator=facilitator,
        store=store.payee,
        clock=clock,
    )
    return channels, transfers
