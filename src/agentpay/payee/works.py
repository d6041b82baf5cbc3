"""
What a started payee runs on, and how it is put together.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Self

from agentpay.chain.relay import TransactionRelay
from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.core.sending import FeePolicy
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.test_keys import refuse_test_key
from agentpay.facilitator.deposit_gas import DepositGas
from agentpay.onchain import check_asset
from agentpay.payee.answers import AnswerPolicy, Answers
from agentpay.payee.books import ChannelBooks
from agentpay.payee.channel_sales import ChannelSales
from agentpay.payee.charges import Charges
from agentpay.payee.funding import ChannelFunding
from agentpay.payee.keeper import Keeper, KeeperPolicy
from agentpay.payee.mpp_offers import MppTerms
from agentpay.payee.mpp_sales import ChargeSales
from agentpay.payee.needed_contracts import can_sell_by_upto, check_contracts
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.own_facilitator import own_facilitator
from agentpay.payee.served import ServedPayments
from agentpay.payee.session_sales import SessionSales
from agentpay.payee.session_settlement import SessionSettlement
from agentpay.payee.session_works import look_after_sessions, sell_on_sessions
from agentpay.payee.settlement import Settlement
from agentpay.payee.sign_in import SignIns
from agentpay.payee.transfer_sales import TransferSales
from agentpay.payee.watched import Watched
from agentpay.payee.whose_books import check_books
from agentpay.ports import Settler, Signer
from agentpay.signers.wallet import Wallet
from agentpay.stores import Store, open_store
from agentpay.types import Address


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
    batch_seconds: float = 0
    """How long a transfer waits for others to share a transaction, where the
    facilitator is our own; 0 is not at all."""
    sponsor_wei: int = 0
    """For each payer's approval of Permit2, where the facilitator is our own."""
    deposit_wei: int | None = None
    """For the gas of payers' deposits in an hour; None is no limit."""
    watched: Watched = field(default_factory=Watched)
    """Told of what is done beside requests."""

    def signer_for(self, account: Address) -> Signer:
        """Which of our keys is an account's."""
        return self.authorizer if self.authorizer.address == account else self.wallet


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
    upto: bool = True
    """Whether the chain has what `upto` needs."""

    def on_terms(self, settings: PayeeSettings, *, clock: Callable[[], float]) -> Self:
        """The same, selling on other terms from now on."""
        self.transfers.use(settings)
        channels = _channel_sales(
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
            transfers=self.transfers,
            answers=self.answers,
            store=self.store,
            clock=clock,
        )
        sessions = sell_on_sessions(
            self.mpp,
            settings,
            self.session_settlement,
            self.answers,
            store=self.store,
            clock=clock,
        )
        return replace(
            self,
            channels=channels,
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
        StoreError: The store cannot be opened, or keeps another payee's books.
    """
    refuse_test_key(plan.wallet.address, settings.asset.chain)
    reads = RpcChain(
        plan.rpc_url,
        chain_id=settings.asset.chain,
        error_names=ERROR_NAMES,
        failed=plan.watched.rpc_failed,
    )
    async with AsyncExitStack() as opened:
        chain = await opened.enter_async_context(reads)
        await chain.check()
        await check_asset(chain, settings.asset)
        await check_contracts(chain, settings, batches=plan.batch_seconds > 0)
        upto = await can_sell_by_upto(chain)
        store = await opened.enter_async_context(await open_store(plan.store_url))
        await check_books(store.payee, settings)
        sending = TransactionSender(
            chain, key=plan.wallet.gas_key(), fees=plan.fees, book=store.payee
        )
        sender = await opened.enter_async_context(sending)
        deposits = DepositGas(chain, wei_per_hour=plan.deposit_wei, clock=clock)
        works = _wire(
            plan,
            settings,
            chain=chain,
            sender=sender,
            facilitator=facilitator
            or own_facilitator(
                settings,
                chain=chain,
                sender=sender,
                sponsor_wei=plan.sponsor_wei,
                batch_seconds=plan.batch_seconds,
                deposits=deposits,
                clock=clock,
            ),
            sessions=await look_after_sessions(
                settings,
                payee=plan.signer_for(settings.pay_to),
                chain=chain,
                sender=sender,
                deposits=deposits,
                store=store,
                watched=plan.watched,
                clock=clock,
            ),
            store=store,
            clock=clock,
        )
        await sender.resume()
        await works.keeper.sync()
        opened.pop_all()
    return replace(works, upto=upto)


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
        watched=plan.watched,
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
        keeper=_keeper(
            plan,
            settings,
            chain=chain,
            facilitator=facilitator,
            settlement=settlement,
            sessions=sessions,
            store=store,
            clock=clock,
        ),
        settlement=settlement,
        channels=channels,
        transfers=transfers,
        charges=charges,
        sessions=sell_on_sessions(
            plan.mpp, settings, sessions, answers, store=store, clock=clock
        ),
        session_settlement=sessions,
        answers=answers,
        mpp=plan.mpp,
        sign_ins=SignIns(settings, chain=chain, store=store.payee, clock=clock),
    )


def _keeper(
    plan: Plan,
    settings: PayeeSettings,
    *,
    chain: RpcChain,
    facilitator: Settler,
    settlement: Settlement,
    sessions: SessionSettlement | None,
    store: Store,
    clock: Callable[[], float],
) -> Keeper:
    served = ServedPayments(
        settings,
        chain,
        facilitator,
        store.payee,
        watched=plan.watched,
        clock=clock,
    )
    return Keeper(
        settings=settings,
        policy=plan.keeping,
        chain=chain,
        store=store.payee,
        settlement=settlement,
        sessions=sessions,
        served=served,
        watched=plan.watched,
        clock=clock,
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
    channels = _channel_sales(
        settings,
        chain=chain,
        facilitator=facilitator,
        settlement=settlement,
        store=store,
        clock=clock,
    )
    transfers = TransferSales(
        settings=settings,
        chain=chain,
        facilitator=facilitator,
        store=store.payee,
        clock=clock,
    )
    return channels, transfers


def _channel_sales(
    settings: PayeeSettings,
    *,
    chain: RpcChain,
    facilitator: Settler,
    settlement: Settlement,
    store: Store,
    clock: Callable[[], float],
) -> ChannelSales:
    books = ChannelBooks(settings=settings, store=store.payee, clock=clock)
    funding = ChannelFunding(
        books=books, chain=chain, facilitator=facilitator, settlement=settlement
    )
    return ChannelSales(
        books=books, funding=funding, chain=chain, settlement=settlement
    )
