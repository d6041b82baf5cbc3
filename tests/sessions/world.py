"""A payer and a payee of sessions on a chain, and what each of them signs and sends."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.core.payee_channel import HeldVoucher
from agentpay.evm import session_escrow as session
from agentpay.evm import session_escrow_abi as escrows
from agentpay.evm.addresses import PERMIT2, SESSION_ESCROW
from agentpay.evm.batch_settlement import PARALLEL_TAG
from agentpay.evm.calls import Call, Receipt
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.hashing import address_word, selector, uint_word
from agentpay.evm.session_deposit import (
    Permit2SessionDeposit,
    TokenSessionDeposit,
)
from agentpay.evm.session_escrow import Escrow, SessionConfig, SessionTerms
from agentpay.evm.session_escrow_abi import SessionOnChain
from agentpay.facilitator.session_desk import EscrowDesk
from agentpay.session_onchain import read_session
from agentpay.session_ports import SessionOrder
from agentpay.signers.wallet import Wallet
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Asset, Hash32

WAYS = ("authorization", "permit2")
"""How a payer may sign a deposit."""
FAR = 2**40
"""A time that no test reaches."""


@dataclass(kw_only=True)
class Table:
    """The parties of sessions on one chain. Only `gas` and the payer have ether."""

    local: LocalChain
    chain: RpcChain
    sender: TransactionSender
    payer: Wallet
    payee: Wallet
    key: Wallet = field(default_factory=Wallet.create)
    """Signs the payer's vouchers."""

    @property
    def escrow(self) -> Escrow:
        return Escrow(chain=self.local.chain_id, contract=SESSION_ESCROW)

    @property
    def asset(self) -> Asset:
        return self.local.usdc

    def desk(self, **changes: object) -> EscrowDesk:
        """The payee's; `changes` are arguments of its own."""
        given: dict[str, object] = {
            "chain": self.chain,
            "senders": [self.sender],
            "payee": self.payee,
            "asset": self.asset,
            "escrow": self.escrow,
            **changes,
        }
        return EscrowDesk(**given)  # type: ignore[arg-type]

    def config(
        self, *, payee: Address | None = None, tagged: bool = False
    ) -> SessionConfig:
        """A session that nobody has opened yet."""
        tag = PARALLEL_TAG if tagged else bytes(4)
        terms = SessionTerms(
            payer=self.payer.address,
            payee=payee or self.payee.address,
            token=self.asset.address,
            salt=Hash32.of(tag + secrets.token_bytes(28)),
            authorized_signer=self.key.address,
        )
        return SessionConfig(terms=terms, escrow=self.escrow)

    async def signed(
        self,
        config: SessionConfig,
        amount: int,
        *,
        way: str = "authorization",
        opens: bool = True,
        payer: Wallet | None = None,
    ) -> TokenSessionDeposit | Permit2SessionDeposit:
        """A deposit, as its payer signs it."""
        payer = payer or self.payer
        unsigned: TokenSessionDeposit | Permit2SessionDeposit
        if way == "permit2":
            await self.approve(payer, PERMIT2)
            unsigned = Permit2SessionDeposit(
                config=config,
                asset=self.asset,
                payer=payer.address,
                amount=amount,
                nonce=secrets.randbits(256),
                deadline=FAR,
                signature=b"",
                opens=opens,
            )
        else:
            salt = Hash32.of(secrets.token_bytes(32))
            unsigned = TokenSessionDeposit(
                config=config,
                asset=self.asset,
                payer=payer.address,
                amount=amount,
                valid_after=0,
                valid_before=FAR,
                signature=b"",
                top_up_salt=None if opens else salt,
            )
        signature = await payer.sign_digest(
            unsigned.digest(), chain=self.local.chain_id
        )
        return replace(unsigned, signature=signature)

    async def voucher(self, config: SessionConfig, amount: int) -> HeldVoucher:
        """What the payer lets the payee take in all."""
        digest = session.voucher_digest(config.channel, amount, config.escrow)
        signature = await self.key.sign_digest(digest, chain=config.escrow.chain)
        return HeldVoucher(amount=amount, signature=signature)

    async def order(self, config: SessionConfig, amount: int) -> SessionOrder:
        voucher = await self.voucher(config, amount)
        return SessionOrder(config=config, voucher=voucher)

    async def opened(
        self, amount: int, *, payee: Address | None = None, tagged: bool = False
    ) -> SessionConfig:
        """A session that its payer has opened itself."""
        config = self.config(payee=payee, tagged=tagged)
        await self.approve(self.payer, SESSION_ESCROW)
        await self.send(
            self.payer, escrows.open_call(config.terms, amount, self.escrow)
        )
        return config

    async def state(self, config: SessionConfig) -> SessionOnChain:
        return await read_session(self.chain, config)

    async def approve(self, owner: Wallet, spender: Address) -> None:
        data = selector("approve(address,uint256)") + address_word(spender)
        call = Call(to=self.asset.address, data=data + uint_word(2**256 - 1), what="a")
        await self.send(owner, call)

    async def send(self, wallet: Wallet, call: Call) -> Receipt:
        """A transaction of somebody's own."""
        key = wallet.gas_key()
        async with TransactionSender(self.chain, key=key) as sender:
            return await sender.send(call)

    async def leaves(self, config: SessionConfig) -> None:
        """The payer asks the contract to close."""
        call = escrows.request_close_call(config.channel, config.escrow)
        await self.send(self.payer, call)

    async def tops_up(self, config: SessionConfig, amount: int) -> Receipt:
        """The payer's own, which takes back that it leaves."""
        await self.approve(self.payer, SESSION_ESCROW)
        call = escrows.top_up_call(config.channel, amount, config.escrow)
        return await self.send(self.payer, call)


@asynccontextmanager
async def seated(
    local: LocalChain, *, pays_gas: bool = True, rpc_url: str | None = None
) -> AsyncIterator[Table]:
    """`pays_gas`: the payee's own account does, and not another key."""
    payee = await local.funded_wallet("$0", ether=1 if pays_gas else 0)
    gas = payee if pays_gas else await local.funded_wallet("$0")
    async with (
        RpcChain(
            rpc_url or local.rpc_url, chain_id=local.chain_id, error_names=ERROR_NAMES
        ) as chain,
        TransactionSender(chain, key=gas.gas_key(), mined_within_seconds=5) as sender,
    ):
        yield Table(
            local=local,
            chain=chain,
            sender=sender,
            payer=await local.funded_wallet(),
            payee=payee,
        )
