"""Sessions are sold where the key of the account that they pay is at hand."""

from typing import Any

import pytest

from agentpay import Wallet
from agentpay.testing.local_chain import LocalChain
from tests.http.session_world import OK, a_world
from tests.http.world import PRICE


@pytest.mark.parametrize("own", [True, False], ids=["wallet", "authorizer"])
async def test_a_session_pays_the_account_of_either_key(
    agentpay_shared_chain: LocalChain, own: bool
) -> None:
    owner = Wallet.create()
    options: dict[str, Any] = {"pay_to": owner.address, "authorizer": owner}
    async with a_world(agentpay_shared_chain, **({} if own else options)) as world:
        config = await world.opened()
        await world.buy(config, PRICE)
        settlement = world.payee._running.session_settlement
        assert settlement is not None
        settled = await settlement.settle()
        after_settling = await world.balance()
        await world.buy(config, 3 * PRICE)
        answer = await world.send(await world.payer.close(config, 2 * PRICE))
        paid = await world.balance()

    assert config.terms.payee == (world.wallet if own else owner).address
    assert (settled, after_settling) == (1, PRICE)
    assert answer.status_code == 200
    assert paid == 2 * PRICE


async def test_no_session_pays_an_account_whose_key_is_elsewhere(
    agentpay_shared_chain: LocalChain,
) -> None:
    cold = Wallet.create().address
    async with a_world(agentpay_shared_chain, pay_to=cold) as world:
        answer = await world.client.get(OK)

    assert answer.status_code == 402
    assert 'intent="session"' not in answer.headers.get("www-authenticate", "")
