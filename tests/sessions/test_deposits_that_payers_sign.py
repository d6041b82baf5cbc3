"""What payers signed for a session is put on the chain once, and for it alone."""

import asyncio
from dataclasses import replace

import pytest
from eth_abi.abi import encode

from agentpay.errors import (
    SessionFault,
    SessionUnfit,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.calls import Call
from agentpay.evm.eip3009 import token_separator
from agentpay.evm.hashing import address_word, keccak, typed_digest
from agentpay.evm.session_deposit import TokenSessionDeposit
from agentpay.signers.wallet import Wallet
from agentpay.testing.local_chain import LocalChain
from tests.sessions.world import WAYS, Table, seated

BOTH_WAYS = pytest.mark.parametrize("way", WAYS)
BOTH_KINDS = pytest.mark.parametrize("opens", [True, False], ids=["open", "top up"])


@BOTH_WAYS
async def test_a_session_is_opened_and_filled_up_by_signatures_alone(
    agentpay_shared_chain: LocalChain, way: str
) -> None:
    async with seated(agentpay_shared_chain) as table:
        desk, config = table.desk(), table.config()
        opening = await table.signed(config, 100, way=way)
        await desk.verify(opening)
        before = await table.state(config)
        opened = await desk.deposit(opening)
        more = await table.signed(config, 30, way=way, opens=False)
        await desk.verify(more)
        filled = await desk.deposit(more)
        after = await table.state(config)

    assert not before.exists
    assert (opened.amount, filled.amount) == (100, 30)
    assert after.deposit == 130
    assert after.payer == table.payer.address


@BOTH_WAYS
@BOTH_KINDS
async def test_f2_a_deposit_is_made_once_however_often_it_is_asked_for(
    agentpay_shared_chain: LocalChain, way: str, opens: bool
) -> None:
    async with seated(agentpay_shared_chain) as table:
        desk = table.desk()
        config = table.config() if opens else await table.opened(50)
        deposit = await table.signed(config, 100, way=way, opens=opens)
        made = await asyncio.gather(*(desk.deposit(deposit) for _ in range(3)))
        await desk.verify(deposit)
        made.append(await table.desk().deposit(deposit))
        state = await table.state(config)

    assert len({settled.transaction for settled in made}) == 1
    assert {settled.amount for settled in made} == {100}
    assert state.deposit == (100 if opens else 150)


async def test_a_session_that_its_payer_opened_itself_is_open(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        desk, config = table.desk(), await table.opened(70)
        deposit = await table.signed(config, 100)
        await desk.verify(deposit)
        made = await desk.deposit(deposit)
        state = await table.state(config)

    assert made.amount == state.deposit == 70


async def test_two_top_ups_of_one_amount_are_two(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        desk, config = table.desk(), await table.opened(50)
        both = [await table.signed(config, 20, opens=False) for _ in range(2)]
        first = await desk.deposit(both[0])
        second = await desk.deposit(both[1])
        again = await desk.deposit(both[0])
        state = await table.state(config)

    assert first.transaction == again.transaction != second.transaction
    assert state.deposit == 90


async def test_f4_a_top_up_whose_authorization_was_cancelled_is_not_taken_for_done(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        desk, config = table.desk(), await table.opened(50)
        like_it = await table.signed(config, 20, opens=False)
        await desk.deposit(like_it)
        deposit = await table.signed(config, 20, opens=False)
        assert isinstance(deposit, TokenSessionDeposit)
        await cancel(table, deposit)
        with pytest.raises(TransactionFailed):
            await desk.verify(deposit)
        with pytest.raises(TransactionFailed):
            await desk.deposit(deposit)
        state = await table.state(config)

    assert state.deposit == 70


async def cancel(table: Table, deposit: TokenSessionDeposit) -> None:
    """The payer voids what it signed, at the token."""
    payer, nonce = table.payer, deposit.authorization.nonce
    kind = keccak(b"CancelAuthorization(address authorizer,bytes32 nonce)")
    owner = address_word(payer.address)
    struct = keccak(kind + owner + nonce.to_bytes())
    digest = typed_digest(token_separator(table.asset), struct)
    signature = await payer.sign_digest(digest, chain=table.local.chain_id)
    data = keccak(b"cancelAuthorization(address,bytes32,bytes)")[:4]
    data += encode(
        ["address", "bytes32", "bytes"], [payer.address, nonce.to_bytes(), signature]
    )
    call = Call(to=table.asset.address, data=data, what="cancel an authorization")
    await table.send(payer, call)


@BOTH_WAYS
@BOTH_KINDS
async def test_p12_a_deposit_that_its_payer_did_not_sign_is_refused_before_all_else(
    agentpay_shared_chain: LocalChain, way: str, opens: bool
) -> None:
    async with seated(agentpay_shared_chain) as table:
        config = table.config() if opens else await table.opened(50)
        deposit = await table.signed(config, 100, way=way, opens=opens)
        forged = await Wallet.create().sign_digest(
            deposit.digest(), chain=table.local.chain_id
        )
        for signature in (forged, b"", bytes(65)):
            with pytest.raises(SessionUnfit) as refused:
                await table.desk().verify(replace(deposit, signature=signature))
            assert refused.value.fault is SessionFault.NOT_SIGNED


@BOTH_WAYS
@BOTH_KINDS
async def test_k9_a_signed_deposit_goes_nowhere_else(
    agentpay_shared_chain: LocalChain, way: str, opens: bool
) -> None:
    """Whoever changes the session, or the amount, has no signature any more."""
    async with seated(agentpay_shared_chain) as table:
        config = table.config() if opens else await table.opened(50)
        other = table.config() if opens else await table.opened(50)
        deposit = await table.signed(config, 100, way=way, opens=opens)
        for change in ({"config": other}, {"amount": 101}):
            with pytest.raises(SessionUnfit) as refused:
                await table.desk().verify(replace(deposit, **change))
            assert refused.value.fault is SessionFault.NOT_SIGNED


async def test_a_session_with_another_payee_contract_or_token_is_not_ours(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        stranger = Wallet.create().address
        escrow = replace(table.escrow, contract=stranger)
        asset = replace(table.asset, address=stranger)
        deposit = await table.signed(table.config(), 100)
        elsewhere = await table.signed(table.config(payee=stranger), 100)
        for desk, given in (
            (table.desk(), elsewhere),
            (table.desk(escrow=escrow), deposit),
            (table.desk(asset=asset), deposit),
        ):
            with pytest.raises(SessionUnfit) as refused:
                await desk.verify(given)
            assert refused.value.fault is SessionFault.NOT_OURS


@BOTH_WAYS
async def test_nothing_is_put_into_a_session_that_its_payer_leaves(
    agentpay_shared_chain: LocalChain, way: str
) -> None:
    """A top-up that its payer signed before would take the leaving back (rule 24)."""
    async with seated(agentpay_shared_chain) as table:
        config = await table.opened(50)
        deposit = await table.signed(config, 20, way=way, opens=False)
        await table.leaves(config)
        with pytest.raises(SessionUnfit) as refused:
            await table.desk().verify(deposit)

    assert refused.value.fault is SessionFault.CLOSE_REQUESTED


async def test_k6_nothing_is_put_into_a_session_that_is_over_or_never_was(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        desk, config, never = table.desk(), await table.opened(50), table.config()
        opening = await table.signed(config, 100)
        more = await table.signed(config, 20, opens=False)
        nowhere = await table.signed(never, 20, opens=False)
        await desk.close(await table.order(config, 10))
        faults = []
        for deposit in (opening, more, nowhere):
            with pytest.raises(SessionUnfit) as refused:
                await desk.verify(deposit)
            faults.append(refused.value.fault)

    over = SessionFault.FINALIZED
    assert faults == [over, over, SessionFault.NOT_FOUND]


async def test_what_would_revert_is_refused_by_the_contracts_reason(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        poor = await table.local.funded_wallet("$0")
        config = table.config()
        terms = replace(config.terms, payer=poor.address)
        deposit = await table.signed(replace(config, terms=terms), 100, payer=poor)
        with pytest.raises(TransactionFailed, match="InsufficientBalance"):
            await table.desk().verify(deposit)


async def test_anybody_may_fill_a_session_up(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        friend, config = await table.local.funded_wallet(), await table.opened(50)
        deposit = await table.signed(config, 20, opens=False, payer=friend)
        desk = table.desk()
        await desk.verify(deposit)
        await desk.deposit(deposit)
        state = await table.state(config)

    assert (state.deposit, state.payer) == (70, table.payer.address)


async def test_f1_a_deposit_that_may_have_been_sent_is_not_called_failed() -> None:
    async with LocalChain(no_mining=True) as local:
        mining = asyncio.create_task(mine(local))
        async with seated(local) as table:
            config = table.config()
            deposit = await table.signed(config, 100)
            mining.cancel()
            with pytest.raises(TransactionOutcomeUnknown):
                await table.desk().deposit(deposit)
            during = await table.state(config)
            mining = asyncio.create_task(mine(local))
            made = await table.desk().deposit(deposit)
            mining.cancel()

    assert not during.exists
    assert made.amount == 100


async def mine(local: LocalChain) -> None:
    while True:
        await local.node.mine(1)
        await asyncio.sleep(0.05)
