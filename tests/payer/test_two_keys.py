"""C18, K11: a voucher key spends what a channel holds; only the wallet moves more."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentpay import Agent, Policy, Wallet, WatchedWallet
from agentpay.errors import (
    ChainError,
    ChannelUnusable,
    ConfigurationError,
    KeyElsewhere,
    UnsafeKey,
)
from agentpay.evm.batch_settlement import voucher_digest
from agentpay.evm.networks import NETWORKS
from agentpay.evm.signature import recover
from agentpay.payee.pricing import Order
from agentpay.records import PayerRecord, channel_config
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, ChainId
from tests.http.world import BASE, BUDGET, PRICE, Wire, a_shop, an_agent, through
from tests.payee.hand import decoded
from tests.payer.books import charged, spent
from tests.payer.test_lanes import EXACTLESS, official

EXACT = BASE + f"/exact/{Order.RESERVE}/ok"
PUBLIC = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
SMALL = Policy(deposit=5 * PRICE, low_water=PRICE, give_up_seconds=3)


def signer_of(credential: str, chain: ChainId) -> Address:
    """Whose signature a voucher carries."""
    voucher = decoded(credential)["payload"]["voucher"]
    amount = int(voucher["maxClaimableAmount"])
    digest = voucher_digest(voucher["channelId"], amount, chain)
    return recover(digest, bytes.fromhex(voucher["signature"][2:]))


async def a_payer(chain: LocalChain, store: Path, wire: Wire, **more: Any) -> Agent:
    return await an_agent(chain, wire, store=str(store), **more)


async def by_key(agent: Agent) -> dict[Address, PayerRecord]:
    """Its channels by the key of their vouchers."""
    return {channel_config(r).payer_authorizer: r for r in await agent.channels()}


class DeafWallet(Wallet):
    """Signs `left` times more."""

    __slots__ = ("left",)
    left: int

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        if not self.left:
            raise AssertionError("the wallet was asked for another signature")
        self.left -= 1
        return await super().sign_digest(digest, chain=chain)


async def test_c18_the_wallet_signs_the_deposit_and_nothing_else(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet, voucher_key = DeafWallet.create(), Wallet.create()
    wallet.left = 1
    await chain.fund(wallet.address)
    async with a_shop(chain) as (_, payee, wall):
        wire = Wire(through(wall))
        async with await an_agent(
            chain, wire, wallet=wallet, voucher_key=voucher_key
        ) as agent:
            await agent.get(BASE + "/ok")
            await asyncio.gather(*(agent.get(BASE + "/ok") for _ in range(5)))
            (record,) = await agent.channels()
            assert await spent(agent) == await charged(payee, agent) == 6 * PRICE
            closed = await agent.close_channel(record.channel)

    assert record.config.payer == wallet.address
    assert channel_config(record).payer_authorizer == voucher_key.address
    assert {signer_of(c, chain.chain_id) for c in wire.credentials} == {
        voucher_key.address
    }
    assert closed.spent == 6 * PRICE
    assert await chain.balance(wallet.address) == 100_000_000 - 6 * PRICE


async def test_c18_exact_is_signed_by_the_wallet(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet("$1", ether=0)
    async with (
        a_shop(chain) as (_, _, wall),
        await an_agent(
            chain, through(wall), wallet=wallet, voucher_key=Wallet.create()
        ) as agent,
    ):
        assert (await agent.get(EXACT)).status_code == 200

    assert await chain.balance(wallet.address) == 1_000_000 - PRICE


@pytest.mark.parametrize("strict", [False, True])
async def test_c18_a_voucher_key_alone_spends_what_was_opened_for_it(
    agentpay_shared_chain: LocalChain, tmp_path: Path, strict: bool
) -> None:
    chain, store = agentpay_shared_chain, tmp_path / "agent.db"
    wallet, voucher_key = await chain.funded_wallet(ether=0), Wallet.create()
    keys: dict[str, Any] = {"voucher_key": voucher_key, "policy": SMALL}
    url = EXACTLESS if strict else BASE + "/ok"
    async with a_shop(chain) as (_, payee, wall):
        wire = Wire(through(official(wall) if strict else wall))
        async with await a_payer(chain, store, wire, wallet=wallet, **keys) as opener:
            await opener.get(url)
        watched = WatchedWallet(wallet.address)
        async with await a_payer(chain, store, wire, wallet=watched, **keys) as agent:
            answers = await asyncio.gather(*(agent.get(url) for _ in range(4)))
            assert {answer.status_code for answer in answers} == {200}
            assert await spent(agent) == await charged(payee, agent) == 5 * PRICE
            before = str(await agent.spending())
            sent = len(wire.credentials)
            with pytest.raises(KeyElsewhere, match="sign a deposit"):
                await agent.get(url)
            assert str(await agent.spending()) == before
            assert len(wire.credentials) == sent
            with pytest.raises(KeyElsewhere, match="transfer"):
                await agent.get(EXACT)
            assert str(await agent.spending()) == before
            (record,) = await agent.channels()
        async with await a_payer(chain, store, wire, wallet=wallet, **keys) as opener:
            await opener.get(url)  # where the wallet is, it is topped up
            assert [r.channel for r in await opener.channels()] == [record.channel]


async def test_c18_a_watched_wallet_opens_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(ether=0)
    async with a_shop(chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(
            chain,
            wire,
            wallet=WatchedWallet(wallet.address),
            voucher_key=Wallet.create(),
        ) as agent:
            with pytest.raises(KeyElsewhere, match=str(wallet.address)):
                await agent.get(BASE + "/ok")
            with pytest.raises(KeyElsewhere):
                await agent.find_lost_channels(BASE + "/ok")
            assert str(await agent.spending()) == "$0 spent, $0 deposited, $0 held"

    assert not wire.credentials


async def test_c18_another_voucher_key_signs_for_no_stored_channel(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain, store = agentpay_shared_chain, tmp_path / "agent.db"
    wallet, first, second = (
        await chain.funded_wallet(ether=0),
        Wallet.create(),
        Wallet.create(),
    )
    async with a_shop(chain) as (_, _, wall):
        wire = Wire(through(wall))
        for key in (first, second, None):
            async with await a_payer(
                chain, store, wire, wallet=wallet, voucher_key=key
            ) as agent:
                assert (await agent.get(BASE + "/ok")).status_code == 200
                records = await by_key(agent)
        authorizers = [first.address, second.address, wallet.address]
        assert set(records) == set(authorizers)
        assert [records[key].ledger.spent for key in authorizers] == [PRICE] * 3
        signers = [signer_of(c, chain.chain_id) for c in wire.credentials]
        assert signers == authorizers
        async with await a_payer(
            chain, store, wire, wallet=wallet, voucher_key=second
        ) as agent:
            foreign = records[first.address].channel
            with pytest.raises(ChannelUnusable, match=str(first.address)):
                await agent.close_channel(foreign)
            assert (await by_key(agent))[first.address].ledger.status == "open"
            for key in (second, wallet):
                closed = await agent.close_channel(records[key.address].channel)
                assert closed.spent == PRICE


async def test_k5_a_voucher_key_with_gas_can_leave_where_the_wallet_is_elsewhere(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain, store = agentpay_shared_chain, tmp_path / "agent.db"
    wallet = await chain.funded_wallet(ether=0)
    rich, poor = await chain.funded_wallet("$0", ether=1), Wallet.create()
    async with a_shop(chain) as (_, _, wall):
        wire = Wire(through(wall))
        for key in (rich, poor):
            async with await a_payer(
                chain, store, wire, wallet=wallet, voucher_key=key
            ) as agent:
                await agent.get(BASE + "/ok")
        watched = WatchedWallet(wallet.address)
        async with await a_payer(
            chain, store, wire, wallet=watched, voucher_key=rich
        ) as agent:
            records = await by_key(agent)
            left, other = records[rich.address], records[poor.address]
            started = await agent.start_withdrawal(left.channel)
            with pytest.raises(KeyElsewhere, match="gas"):
                await agent.start_withdrawal(other.channel)
            with pytest.raises(ChainError, match="WithdrawDelayNotElapsed"):
                await agent.finish_withdrawal(left.channel)

    assert started.amount > 0


async def test_a_lost_channel_is_found_by_the_wallet_and_its_voucher_key(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet, key = await chain.funded_wallet(ether=0), Wallet.create()
    options: dict[str, Any] = {"wallet": wallet}
    async with a_shop(chain) as (_, _, wall):
        opened = []
        for voucher_key in (key, None):
            async with await an_agent(
                chain, through(wall), voucher_key=voucher_key, **options
            ) as agent:
                await agent.get(BASE + "/ok")
                opened += [record.channel for record in await agent.channels()]
        async with await an_agent(
            chain, through(wall), voucher_key=key, **options
        ) as agent:
            assert await agent.find_lost_channels(BASE + "/ok") == opened
            assert await agent.find_lost_channels(BASE + "/ok") == []


class SmartWallet(Wallet):
    """Signs like a contract: longer than a key does."""

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        return await super().sign_digest(digest, chain=chain) + b"\1"


async def test_k11_a_contract_does_not_sign_vouchers_but_needs_a_key_for_them(
    agentpay_shared_chain: LocalChain,
) -> None:
    wallet = SmartWallet.create()
    await agentpay_shared_chain.fund(wallet.address)
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire, wallet=wallet) as agent:
            with pytest.raises(ConfigurationError, match="voucher_key"):
                await agent.get(BASE + "/ok")
            assert str(await agent.spending()) == "$0 spent, $0 deposited, $0 held"

    assert not wire.credentials


def test_c18_a_public_voucher_key_is_refused_where_money_is_real() -> None:
    with pytest.raises(UnsafeKey):
        Agent(
            Wallet.create(),
            budget=BUDGET,
            voucher_key=Wallet.from_key(PUBLIC),
            network=next(n for n in NETWORKS if NETWORKS[n].real_money),
            rpc_url="http://127.0.0.1:1",
            allow_mainnet=True,
        )


@pytest.mark.parametrize("text", ["", "0x", "0x12", "you", "0x" + "g" * 40])
def test_what_is_no_address_cannot_be_watched(text: str) -> None:
    with pytest.raises(ConfigurationError):
        WatchedWallet(text)
