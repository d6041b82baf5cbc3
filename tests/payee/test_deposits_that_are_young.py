"""A deposit that the chain may take back: what needs more of it waits, undecided."""

import pytest

from agentpay.evm.batch_settlement import channel_id
from agentpay.onchain import read_channel
from agentpay.payee.finality import Finality
from agentpay.testing.local_chain import LocalChain
from tests.http.world import a_payee
from tests.payee.hand import HandPayer, receipt_of, refused, serve, terms_of

DEPTH = 5
YOUNG = Finality(confirmations=DEPTH, above="$0.0005")


@pytest.mark.parametrize("tagged", [False, True])
async def test_f9_a_voucher_waits_for_its_deposit_and_no_other_one_is_made(
    tagged: bool, agentpay_shared_chain: LocalChain
) -> None:
    chain = agentpay_shared_chain
    await chain.node.mine(DEPTH)  # before that, there were no contracts to ask
    async with a_payee(chain, finality=YOUNG) as payee:
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        terms, config = terms_of(payee), payer.config(tagged=tagged)
        channel = channel_id(config, payee.asset.chain)
        header = await payer.funding(config, 10_000, 1000, terms)
        other = await payer.funding(config, 10_000, 1000, terms)

        for sent, moves in ((header, True), (header, False), (other, False)):
            waits = refused(await payee.answer(sent, terms))
            assert waits.status == 503
            assert b"send the same request again" in waits.body
            assert receipt_of(waits).error_reason == "settlement_pending"
            assert bool(receipt_of(waits).transaction) is moves
            state = await read_channel(payee._running.chain, channel)
            assert state.balance == 10_000
        await chain.node.mine(DEPTH)
        assert (await serve(await payee.answer(header, terms))).success


async def test_f9_who_asks_for_more_than_was_deposited_is_refused_at_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    await chain.node.mine(DEPTH)  # before that, there were no contracts to ask
    async with a_payee(chain, finality=YOUNG) as payee:
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        terms, config = terms_of(payee), payer.config(tagged=True)
        header = await payer.funding(config, 10_000, 10_001, terms)

        assert refused(await payee.answer(header, terms)).status == 402
