"""
A facilitator and what it runs on: its chain, its keys, its book, its limits.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from agentpay.chain.relay import TransactionRelay
from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.core.sending import FeePolicy
from agentpay.errors import ConfigurationError, UnsuitableToken
from agentpay.evm.addresses import MULTICALL3
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.networks import Network, find_network
from agentpay.evm.test_keys import refuse_test_key
from agentpay.facilitator.batches import BatchPolicy, TransferBatches
from agentpay.facilitator.channel_desk import ChannelDesk
from agentpay.facilitator.channel_orders import ChannelOrders
from agentpay.facilitator.contracts import Contracts, contracts_for
from agentpay.facilitator.embedded import Facilitator
from agentpay.facilitator.gas import GasLimits, GasSpending
from agentpay.facilitator.once import SettledOnce
from agentpay.facilitator.service import FacilitatorService, FacilitatorTerms
from agentpay.facilitator.sponsor import Sponsor, SponsorLimits
from agentpay.facilitator.transfers import SettlesTransfers, TransferDesk
from agentpay.onchain import check_asset
from agentpay.one_attempt import OneAttempt
from agentpay.payee.arguments import check_network
from agentpay.ports import PayeeStore, Signer
from agentpay.signers.wallet import Wallet
from agentpay.stores import open_store
from agentpay.types import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class FacilitatorLimits:
    """What strangers can make a facilitator spend."""

    gas: GasLimits = field(default_factory=GasLimits)
    gas_per_hour: int = 100_000_000
    gas_per_payee_hour: int = 20_000_000
    mined_within_seconds: float = 30
    fees: FeePolicy = field(default_factory=FeePolicy)
    sponsoring: SponsorLimits | None = None
    """For the gas of payers' approvals of Permit2; None pays for none."""


class FacilitatorHost:
    """Starts a `FacilitatorService`, and stops it. One process owns its store."""

    def __init__(
        self,
        wallets: Sequence[Wallet],
        *,
        network: str | Network,
        rpc_url: str | None = None,
        terms: FacilitatorTerms | None = None,
        store: str = "memory:",
        authorizer: Signer | None = None,
        limits: FacilitatorLimits | None = None,
        batch: BatchPolicy | None = None,
        allow_mainnet: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        `wallets` pay gas. `terms` say for whom, by default for the network's dollar.
        With `authorizer`, payees may leave it to sign their claims and refunds. With
        `batch`, transfers wait for others to share a transaction.

        Raises:
            ConfigurationError: An argument cannot be used.
            MainnetNotEnabled: Real money, and `allow_mainnet` is not set.
            UnsafeKey: A publicly known test key, and the chain is not local.
        """
        place = find_network(network)
        check_network(place, allow_mainnet=allow_mainnet)
        for signer in (*wallets, *([authorizer] if authorizer else [])):
            refuse_test_key(signer.address, place.chain)
        self.terms = terms or FacilitatorTerms(assets=(place.usdc,))
        if self.terms.chain != place.chain:
            raise ConfigurationError(
                f"the assets are of chain {self.terms.chain}, the network is"
                f" {place.chain}"
            )
        self._rpc_url = rpc_url or place.rpc_url
        if not self._rpc_url:
            raise ConfigurationError(f"network {place.name} needs an rpc_url")
        self._wallets = tuple(wallets)
        self._store_url = store
        self.authorizer = authorizer
        self._limits = limits or FacilitatorLimits()
        self._batch = batch
        self._clock = clock
        self._service: FacilitatorService | None = None
        self._open = AsyncExitStack()
        self._starting = OneAttempt(self._start)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The accounts that pay gas."""
        return tuple(wallet.address for wallet in self._wallets)

    async def start(self) -> FacilitatorService:
        """
        Check the chain, the assets and the contracts, once; returns what answers.

        Whoever asks meanwhile waits for the same attempt; a second after one failed
        there is another, not before.

        Raises:
            ChainError: The endpoint is out of reach or serves another chain, or an
                asset or contract is not what it should be.
            StoreError: The store cannot be opened.
        """
        if self._service is not None:
            return self._service
        return await self._starting.result()

    async def _start(self) -> FacilitatorService:
        async with AsyncExitStack() as opened:
            self._service = service = await self._build(opened)
            self._open = opened.pop_all()
        return service

    async def stop(self) -> None:
        """Close what was opened, and give up a start that is under way."""
        await self._starting.stop()
        self._service = None
        await self._open.aclose()

    async def _build(self, opened: AsyncExitStack) -> FacilitatorService:
        chain = RpcChain(
            self._rpc_url or "", chain_id=self.terms.chain, error_names=ERROR_NAMES
        )
        await opened.enter_async_context(chain)
        await chain.check()
        for asset in self.terms.assets:
            await check_asset(chain, asset)
        await self._check_contracts(chain)
        together = self._batch is not None or self.terms.wallet_factories
        if together and not await chain.code(MULTICALL3):
            raise UnsuitableToken(f"there is no Multicall3 on chain {chain.chain_id}")
        store = await opened.enter_async_context(await open_store(self._store_url))
        senders: list[TransactionSender] = []
        for wallet in self._wallets:
            sender = TransactionSender(
                chain,
                key=wallet.gas_key(),
                mined_within_seconds=self._limits.mined_within_seconds,
                fees=self._limits.fees,
                book=store.payee,
            )
            senders.append(await opened.enter_async_context(sender))
            await sender.resume()
        return self._wire(chain, senders, store.payee)

    async def _check_contracts(self, chain: RpcChain) -> None:
        """What a payment may need besides is known when it comes."""
        contracts = Contracts(chain)
        for scheme in self.terms.schemes:
            for asset in self.terms.assets:
                needed = contracts_for(scheme, asset)
                missing = await contracts.first_missing(needed)
                if missing is not None:
                    raise UnsuitableToken(
                        f"there is no contract at {missing} on chain {chain.chain_id},"
                        f" where {scheme} needs it: leave that out"
                    )

    def _sponsor(self, chain: RpcChain) -> Sponsor | None:
        limits = self._limits.sponsoring
        if limits is None:
            return None
        relay = TransactionRelay(chain)
        return Sponsor(chain=chain, relay=relay, limits=limits, clock=self._clock)

    def _wire(
        self, chain: RpcChain, senders: Sequence[TransactionSender], store: PayeeStore
    ) -> FacilitatorService:
        limits, clock = self._limits, self._clock
        facilitator = Facilitator(
            chain=chain,
            senders=senders,
            gas=limits.gas,
            wallet_factories=self.terms.wallet_factories,
            sponsor=self._sponsor(chain),
            spending=GasSpending(
                per_hour=limits.gas_per_hour,
                per_payee_hour=limits.gas_per_payee_hour,
                clock=clock,
            ),
        )
        sends: SettlesTransfers = facilitator
        if self._batch is not None:
            sends = TransferBatches(
                chain=chain, facilitator=facilitator, policy=self._batch
            )
        once = SettledOnce(chain=chain, book=store, clock=clock)
        return FacilitatorService(
            terms=self.terms,
            chain=chain,
            signers=facilitator.addresses,
            authorizer=self.authorizer.address if self.authorizer else None,
            sponsors=facilitator.sponsors,
            transfers=TransferDesk(
                chain=chain,
                facilitator=facilitator,
                sends=sends,
                once=once,
                clock=clock,
            ),
            channels=ChannelDesk(
                chain=chain, facilitator=facilitator, once=once, clock=clock
            ),
            orders=ChannelOrders(
                chain=chain, facilitator=facilitator, authorizer=self.authorizer
            ),
        )
