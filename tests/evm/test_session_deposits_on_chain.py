"""Deposits of sessions are put on a real chain as they were signed, once."""

from dataclasses import replace

import pytest

from agentpay.errors import TransactionFailed
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.session_deposit import (
    Permit2SessionDeposit,
    TokenSessionDeposit,
)
from agentpay.evm.session_escrow import SessionConfig
from agentpay.onchain import is_used
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32

from .test_session_escrow_on_chain import ESCROW, FAR, Table, seated


def deposit_of(
    table: Table, way: str, amount: int, *, opens: bool
) -> TokenSessionDeposit | Permit2SessionDeposit:
    config = SessionConfig(terms=table.terms, escrow=ESCROW)
    if way == "permit2":
        return Permit2SessionDeposit(
            config=config,
            asset=table.local.usdc,
            payer=table.payer.address,
            amount=amount,
            nonce=amount,
            deadline=FAR,
            opens=opens,
            signature=b"",
        )
    return TokenSessionDeposit(
        config=config,
        asset=table.local.usdc,
        payer=table.payer.address,
        amount=amount,
        valid_after=0,
        valid_before=FAR,
        signature=b"",
        top_up_salt=None if opens else Hash32.of(amount.to_bytes(32, "big")),
    )


@pytest.mark.parametrize("opening", ["authorization", "permit2"])
@pytest.mark.parametrize("filling", ["authorization", "permit2"])
async def test_deposits_open_and_fill_a_session_and_are_used_once(
    agentpay_chain: LocalChain, opening: str, filling: str
) -> None:
    async with seated(agentpay_chain) as table:
        await table.approve(PERMIT2, 1000)
        for way, amount, opens in ((opening, 100, True), (filling, 50, False)):
            unsigned = deposit_of(table, way, amount, opens=opens)
            signature = await table.payer.sign_digest(
                unsigned.digest(), chain=ESCROW.chain
            )
            signed = replace(unsigned, signature=signature)

            assert not await is_used(table.chain, signed)
            await table.send(signed.call())
            assert await is_used(table.chain, signed)
            with pytest.raises(TransactionFailed):
                await table.send(signed.call())

        assert (await table.state()).deposit == 150
