"""A payee relies on an escrow contract only after a look at it."""

from dataclasses import replace

import pytest

from agentpay.errors import UnsuitableEscrow
from agentpay.evm.addresses import SESSION_ESCROW
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.session_escrow import Escrow
from agentpay.session_onchain import check_escrow
from agentpay.signers.wallet import Wallet
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from tests.sessions.world import Table, seated

OURS = load_artifact("EVMPaymentChannel").runtime
GRACE = 15 * 60


def with_grace(seconds: int) -> bytes:
    """Our contract, compiled with another grace period."""
    push = b"\x61" + GRACE.to_bytes(2, "big")
    assert push in OURS
    return OURS.replace(push, b"\x61" + seconds.to_bytes(2, "big"))


async def test_our_escrow_gives_a_payee_fifteen_minutes(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        desk = table.desk()
        await desk.start()

    assert desk.grace_seconds == GRACE


async def put(table: Table, address: Address, code: bytes) -> None:
    """Code that the state of the next block has, at which it is read."""
    await table.local.node.set_code(address, code)
    await table.local.node.mine()


async def test_another_escrow_is_used_at_the_word_of_who_configured_it(
    agentpay_chain: LocalChain,
) -> None:
    async with seated(agentpay_chain) as table:
        there = replace(table.escrow, contract=Wallet.create().address)
        await put(table, there.contract, with_grace(600))

        assert await check_escrow(table.chain, there) == 600


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (b"", "no contract"),
        (load_artifact("TestUSDC").runtime, "holds no sessions"),
        (with_grace(599), "needs 600 s"),
        (bytes.fromhex("6103845f5260205ff3"), "another domain"),
    ],
    ids=["nothing", "a token", "too little time", "another domain"],
)
async def test_c12_what_is_no_escrow_to_rely_on_is_refused(
    agentpay_chain: LocalChain, code: bytes, why: str
) -> None:
    async with seated(agentpay_chain) as table:
        there = replace(table.escrow, contract=Wallet.create().address)
        await put(table, there.contract, code)
        with pytest.raises(UnsuitableEscrow, match=why):
            await table.desk(escrow=there).start()


async def test_c12_another_contract_at_the_address_of_ours_is_refused(
    agentpay_chain: LocalChain,
) -> None:
    async with seated(agentpay_chain) as table:
        await put(table, SESSION_ESCROW, with_grace(900 + 1))
        ours = Escrow(chain=table.local.chain_id, contract=SESSION_ESCROW)
        with pytest.raises(UnsuitableEscrow, match="another contract"):
            await check_escrow(table.chain, ours)
