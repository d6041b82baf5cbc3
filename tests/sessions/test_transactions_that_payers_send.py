"""A transaction of a payer's own counts for what it did, and for nothing else."""

import asyncio

import pytest

from agentpay.errors import (
    ChainUnreachable,
    SessionFault,
    SessionUnfit,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm import session_escrow_abi as escrows
from agentpay.evm.addresses import SESSION_ESCROW
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.session_escrow import SessionConfig
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from tests.sessions.world import Table, seated


async def opens(table: Table, config: SessionConfig, amount: int) -> Hash32:
    await table.approve(table.payer, SESSION_ESCROW)
    call = escrows.open_call(config.terms, amount, config.escrow)
    return (await table.send(table.payer, call)).transaction


async def test_a_session_that_its_payer_opened_is_confirmed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        config = table.config()
        transaction = await opens(table, config, 100)
        seen = await table.desk().confirm(config, transaction)

    assert (seen.transaction, seen.amount) == (transaction, 100)


async def test_a_top_up_is_confirmed_for_just_what_it_added(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        desk, config = table.desk(), await table.opened(100)
        receipt = await table.tops_up(config, 30)
        seen = await desk.confirm(config, receipt.transaction, added=30)
        for wrong in (29, 31, 130):
            with pytest.raises(SessionUnfit) as refused:
                await desk.confirm(config, receipt.transaction, added=wrong)
            assert refused.value.fault is SessionFault.OTHER_EFFECT

    assert seen.amount == 30


async def test_k1_what_opened_or_filled_up_another_session_says_nothing_of_this_one(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        desk, other, config = table.desk(), table.config(), await table.opened(100)
        opening = await opens(table, other, 100)
        filling = (await table.tops_up(other, 30)).transaction
        tries = [
            desk.confirm(config, opening),
            desk.confirm(config, filling, added=30),
            desk.confirm(other, filling),
            desk.confirm(other, opening, added=100),
        ]
        for attempt in tries:
            with pytest.raises(SessionUnfit) as refused:
                await attempt
            assert refused.value.fault is SessionFault.OTHER_EFFECT


async def test_an_event_of_another_contract_opens_nothing(
    agentpay_chain: LocalChain,
) -> None:
    """A contract with our code at another address says the same, of other money."""
    async with seated(agentpay_chain) as table:
        twin = table.payee.address  # any address will do that is not the escrow's
        await table.local.node.set_code(
            twin, load_artifact("EVMPaymentChannel").runtime
        )
        config = table.config()
        there = SessionConfig(
            terms=config.terms,
            escrow=type(config.escrow)(chain=config.escrow.chain, contract=twin),
        )
        await table.approve(table.payer, twin)
        call = escrows.open_call(there.terms, 100, there.escrow)
        receipt = await table.send(table.payer, call)
        with pytest.raises(SessionUnfit) as refused:
            await table.desk().confirm(config, receipt.transaction)
        with pytest.raises(SessionUnfit) as stranger:
            await table.desk().confirm(there, receipt.transaction)

    assert refused.value.fault is SessionFault.OTHER_EFFECT
    assert stranger.value.fault is SessionFault.NOT_OURS


async def test_what_reverted_is_final(agentpay_shared_chain: LocalChain) -> None:
    local = agentpay_shared_chain
    async with seated(local) as table:
        config = table.config()
        call = escrows.open_call(config.terms, 0, config.escrow)
        sent = await local.node.rpc(
            "eth_sendTransaction",
            {
                "from": (await impersonated(table)),
                "to": call.to,
                "data": "0x" + call.data.hex(),
                "gas": "0x100000",
            },
        )
        await local.node.mine(1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TransactionFailed) as failed:
            await table.desk().confirm(config, Hash32(sent), wait_seconds=60)

    assert failed.value.transaction == sent
    assert loop.time() - began < 30


async def impersonated(table: Table) -> str:
    await table.local.node.rpc("anvil_impersonateAccount", table.payer.address)
    return table.payer.address


async def test_f1_what_is_not_mined_yet_is_waited_for_and_then_unknown(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        config, nowhere = table.config(), Hash32.of(b"\x07" * 32)
        with pytest.raises(TransactionOutcomeUnknown):
            await table.desk().confirm(config, nowhere, wait_seconds=0.3)


async def test_a_session_that_is_over_or_left_is_not_confirmed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        desk, config = table.desk(), table.config()
        transaction = await opens(table, config, 100)
        await table.leaves(config)
        with pytest.raises(SessionUnfit) as left:
            await desk.confirm(config, transaction)
        await table.tops_up(config, 1)
        back = await desk.confirm(config, transaction)
        await desk.close(await table.order(config, 10))
        with pytest.raises(SessionUnfit) as over:
            await desk.confirm(config, transaction)

    assert left.value.fault is SessionFault.CLOSE_REQUESTED
    assert back.amount == 100
    assert over.value.fault is SessionFault.FINALIZED


async def test_f9_a_session_on_other_terms_than_its_id_has_is_nonsense(
    agentpay_chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with seated(agentpay_chain) as table:
        config, other = await table.opened(100), await table.opened(100)
        lie = escrows.channel_state_call(config.channel, config.escrow)
        answer = await table.chain.read([lie])
        wrong = answer[0].replace(
            table.payee.address.to_bytes(), table.payer.address.to_bytes()
        )

        async def lies(*_: object, **__: object) -> list[bytes]:
            return [wrong]

        with monkeypatch.context() as patched:
            patched.setattr(table.chain, "read", lies)
            with pytest.raises(ChainUnreachable, match="other terms"):
                await table.state(other)
