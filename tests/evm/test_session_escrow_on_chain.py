"""A session runs on a real chain: hashes, calls, events and contract agree."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypedDict

import pytest

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.errors import TransactionFailed
from agentpay.evm import session_escrow as session
from agentpay.evm import session_escrow_abi as abi
from agentpay.evm import session_escrow_events as events
from agentpay.evm.addresses import PERMIT2, SESSION_ESCROW
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.calls import Call
from agentpay.evm.eip3009 import Authorization, receive_digest
from agentpay.evm.eip3009_abi import decode_uint
from agentpay.evm.hashing import address_word, keccak, uint_word
from agentpay.evm.permit2 import Permitted
from agentpay.evm.session_escrow import Escrow, SessionTerms
from agentpay.signers.wallet import Wallet
from agentpay.testing.anvil import Anvil
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, ChainId, Hash32

SALT = Hash32("0x" + "5a" * 32)
FAR = 2**40
ESCROW = Escrow(chain=ChainId(31337), contract=SESSION_ESCROW)


class Parties(TypedDict):
    """What every event says first."""

    channel: Hash32
    payer: Address
    payee: Address


@dataclass
class Table:
    """The parties of a session on one chain, and what each of them does."""

    local: LocalChain
    chain: RpcChain
    relayer: TransactionSender
    payer: Wallet
    payee: Wallet
    key: Wallet = field(default_factory=Wallet.create)
    """Signs the payer's vouchers."""

    @property
    def terms(self) -> SessionTerms:
        return SessionTerms(
            payer=self.payer.address,
            payee=self.payee.address,
            token=self.local.usdc.address,
            salt=SALT,
            authorized_signer=self.key.address,
        )

    @property
    def channel(self) -> Hash32:
        return session.channel_id(self.terms, ESCROW)

    @property
    def parties(self) -> Parties:
        payer, payee = self.payer.address, self.payee.address
        return Parties(channel=self.channel, payer=payer, payee=payee)

    async def send(self, call: Call, sender: Wallet | None = None) -> object:
        """What the contract says when a call is mined; the relayer's by default."""
        if sender is None:
            receipt = await self.relayer.send(call)
        else:
            async with TransactionSender(self.chain, key=sender.gas_key()) as own:
                receipt = await own.send(call)
        said = list(events.events_in(receipt.logs, ESCROW))
        return said[0] if len(said) == 1 else said

    async def state(self) -> abi.SessionOnChain:
        call = abi.channel_state_call(self.channel, ESCROW)
        [answer] = await self.chain.read([call])
        return abi.decode_channel_state(answer)

    async def voucher(self, cumulative: int) -> bytes:
        digest = session.voucher_digest(self.channel, cumulative, ESCROW)
        return await self.key.sign_digest(digest, chain=ESCROW.chain)

    async def authorization(
        self, value: int, nonce: Hash32
    ) -> tuple[Authorization, bytes]:
        """The payer's, to the escrow."""
        allowed = Authorization(
            payer=self.payer.address,
            to=SESSION_ESCROW,
            value=value,
            valid_after=0,
            valid_before=FAR,
            nonce=nonce,
        )
        digest = receive_digest(allowed, self.local.usdc)
        return allowed, await self.payer.sign_digest(digest, chain=ESCROW.chain)

    def permitted(self, amount: int, *, nonce: int) -> Permitted:
        """What the payer lets Permit2 move."""
        return Permitted(
            payer=self.payer.address,
            token=self.local.usdc.address,
            amount=amount,
            nonce=nonce,
            deadline=FAR,
        )

    async def approve(self, spender: Address, amount: int) -> None:
        data = keccak(b"approve(address,uint256)")[:4]
        data += address_word(spender) + uint_word(amount)
        call = Call(to=self.local.usdc.address, data=data, what="approve")
        await self.send(call, self.payer)

    async def settle_relayed(self, cumulative: int, nonce: int) -> object:
        digest = session.settle_digest(
            self.channel, cumulative, nonce=nonce, deadline=FAR, escrow=ESCROW
        )
        call = abi.settle_with_authorization_call(
            self.channel,
            cumulative,
            nonce=nonce,
            deadline=FAR,
            payee_signature=await self.payee.sign_digest(digest, chain=ESCROW.chain),
            voucher_signature=await self.voucher(cumulative),
            escrow=ESCROW,
        )
        return await self.send(call)

    async def close_relayed(self, cumulative: int, nonce: int) -> object:
        digest = session.close_digest(
            self.channel, cumulative, nonce=nonce, deadline=FAR, escrow=ESCROW
        )
        call = abi.close_with_authorization_call(
            self.channel,
            cumulative,
            nonce=nonce,
            deadline=FAR,
            payee_signature=await self.payee.sign_digest(digest, chain=ESCROW.chain),
            voucher_signature=await self.voucher(cumulative),
            escrow=ESCROW,
        )
        return await self.send(call)

    async def top_up_relayed(self, amount: int) -> object:
        nonce = session.top_up_nonce(
            self.channel, additional_deposit=amount, payer=self.payer.address, salt=SALT
        )
        allowed, signature = await self.authorization(amount, nonce)
        call = abi.top_up_with_authorization_call(
            self.channel, allowed, salt=SALT, signature=signature, escrow=ESCROW
        )
        return await self.send(call)

    async def open_relayed(self, deposit: int) -> object:
        nonce = session.open_nonce(self.terms)
        allowed, signature = await self.authorization(deposit, nonce)
        return await self.send(
            abi.open_with_authorization_call(self.terms, allowed, signature, ESCROW)
        )


@asynccontextmanager
async def seated(local: LocalChain) -> AsyncIterator[Table]:
    relaying = await local.funded_wallet()
    async with (
        RpcChain(
            local.rpc_url, chain_id=local.chain_id, error_names=abi.ERROR_NAMES
        ) as chain,
        TransactionSender(chain, key=relaying.gas_key()) as relayer,
    ):
        yield Table(
            local=local,
            chain=chain,
            relayer=relayer,
            payer=await local.funded_wallet(),
            payee=await local.funded_wallet("$0"),
        )


async def read_words(chain: RpcChain, calls: Sequence[Call]) -> list[int]:
    return [decode_uint(answer) for answer in await chain.read(calls)]


async def test_the_deployer_puts_the_escrow_where_we_say() -> None:
    async with (
        Anvil() as node,
        RpcChain(node.url, chain_id=ESCROW.chain) as chain,
    ):
        wallet = Wallet.create()
        await node.set_balance(wallet.address, 10**18)
        assert await node.code(SESSION_ESCROW) == b""
        async with TransactionSender(chain, key=wallet.gas_key()) as sender:
            await sender.send(abi.deploy_call())

        assert (
            await node.code(SESSION_ESCROW)
            == load_artifact("EVMPaymentChannel").runtime
        )
        [separator] = await chain.read([abi.separator_call(ESCROW)])
        assert separator == session.separator(ESCROW)


async def test_the_local_chain_has_what_the_deployer_would_put_there(
    agentpay_chain: LocalChain,
) -> None:
    code = await agentpay_chain.node.code(SESSION_ESCROW)
    async with RpcChain(
        agentpay_chain.rpc_url, chain_id=agentpay_chain.chain_id
    ) as chain:
        [grace] = await read_words(chain, [abi.grace_seconds_call(ESCROW)])
        [separator] = await chain.read([abi.separator_call(ESCROW)])

    assert code == load_artifact("EVMPaymentChannel").runtime
    assert grace == 900 >= session.GRACE_SECONDS_MIN
    assert separator == session.separator(ESCROW)


async def test_a_session_needs_no_gas_of_payer_and_payee(
    agentpay_chain: LocalChain,
) -> None:
    async with seated(agentpay_chain) as table:
        of = table.parties
        for wallet in (table.payer, table.payee):
            await agentpay_chain.node.set_balance(wallet.address, 0)

        assert await table.open_relayed(5_000_000) == events.ChannelOpened(
            **of, terms=table.terms, deposit=5_000_000
        )
        assert await table.top_up_relayed(1_000_000) == events.ToppedUp(
            **of, added=1_000_000, deposit=6_000_000
        )
        assert await table.settle_relayed(250_000, nonce=7) == events.Settled(
            **of, paid=250_000, settled=250_000
        )
        assert await table.close_relayed(400_000, nonce=8) == events.ChannelClosed(
            **of, settled=400_000, refunded=5_600_000
        )

        used = [abi.nonce_used_call(table.channel, n, ESCROW) for n in (7, 8, 9)]
        assert await read_words(table.chain, used) == [1, 1, 0]
        state = await table.state()
        assert (state.deposit, state.settled) == (6_000_000, 400_000)
        assert state.finalized
        assert state.signer == table.key.address
        assert await agentpay_chain.balance(table.payee.address) == 400_000
        assert await agentpay_chain.balance(table.payer.address) == 99_600_000
        assert await agentpay_chain.balance(SESSION_ESCROW) == 0


async def test_a_session_is_opened_and_filled_by_permit2(
    agentpay_chain: LocalChain,
) -> None:
    async with seated(agentpay_chain) as table:
        channel, terms = table.channel, table.terms
        await table.approve(PERMIT2, 3_000_000)
        first = table.permitted(2_000_000, nonce=1)
        digest = session.open_permit_digest(first, terms, ESCROW)
        signature = await table.payer.sign_digest(digest, chain=ESCROW.chain)
        await table.send(abi.open_with_permit2_call(terms, first, signature, ESCROW))
        second = table.permitted(1_000_000, nonce=2)
        digest = session.top_up_permit_digest(second, channel, ESCROW)
        signature = await table.payer.sign_digest(digest, chain=ESCROW.chain)
        await table.send(
            abi.top_up_with_permit2_call(channel, second, signature, ESCROW)
        )

        state = await table.state()
        assert (state.payer, state.deposit) == (terms.payer, 3_000_000)
        assert await agentpay_chain.balance(SESSION_ESCROW) == 3_000_000


async def test_a_session_is_run_by_its_parties_alone(
    agentpay_chain: LocalChain,
) -> None:
    async with seated(agentpay_chain) as table:
        channel, terms = table.channel, table.terms
        await table.approve(SESSION_ESCROW, 1_500)
        await table.send(abi.open_call(terms, 1_000, ESCROW), table.payer)
        await table.send(abi.top_up_call(channel, 500, ESCROW), table.payer)
        signature = await table.voucher(300)
        await table.send(abi.settle_call(channel, 300, signature, ESCROW), table.payee)
        signature = await table.voucher(700)
        await table.send(abi.close_call(channel, 700, signature, ESCROW), table.payee)

        states = abi.channel_states_call([channel, SALT], ESCROW)
        [answer] = await table.chain.read([states])
        ours, nobodys = abi.decode_channel_states(answer)
        assert (ours.deposit, ours.settled, ours.unsettled) == (1_500, 700, 0)
        assert not nobodys.exists
        assert await agentpay_chain.balance(table.payee.address) == 700


async def test_a_payer_leaves_by_itself() -> None:
    async with LocalChain() as local, seated(local) as table:
        channel = table.channel
        await table.open_relayed(1_000)
        asked = await table.send(abi.request_close_call(channel, ESCROW), table.payer)
        since = (await table.state()).close_requested_at
        leave = abi.withdraw_call(channel, ESCROW)

        assert asked == events.CloseRequested(**table.parties, grace_end=since + 900)
        with pytest.raises(TransactionFailed, match="CloseNotReady"):
            await table.send(leave, table.payer)
        await local.node.increase_time(900)
        assert await table.send(leave, table.payer) == events.ChannelClosed(
            **table.parties, settled=0, refunded=1_000
        )
        assert await local.balance(table.payer.address) == 100_000_000


async def test_refusals_are_named(agentpay_chain: LocalChain) -> None:
    async with seated(agentpay_chain) as table:
        channel = table.channel
        with pytest.raises(TransactionFailed, match="ChannelNotFound"):
            await table.send(abi.settle_call(channel, 1, b"", ESCROW), table.payee)
        await table.open_relayed(1_000)
        signature = await table.voucher(300)
        cases = {
            "NotPayee": abi.settle_call(channel, 300, signature, ESCROW),
            "NotPayer": abi.request_close_call(channel, ESCROW),
            "NonceMismatch": abi.top_up_with_authorization_call(
                channel,
                (await table.authorization(5, SALT))[0],
                salt=SALT,
                signature=b"",
                escrow=ESCROW,
            ),
        }
        for name, call in cases.items():
            with pytest.raises(TransactionFailed, match=name):
                await table.send(call)
        with pytest.raises(TransactionFailed, match="InvalidSignature"):
            await table.send(
                abi.settle_call(channel, 301, signature, ESCROW), table.payee
            )
