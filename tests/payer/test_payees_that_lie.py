"""Payees that say what is not so: no budget is freed on their word."""

import httpx

from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import PAYMENT_RESPONSE
from tests.http.world import BASE, PRICE
from tests.payer.test_paying_by_permit2 import a_pair


async def test_c13_upto_is_not_believed_by_another_payments_transaction(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_shared_chain) as (agent, wire, _payee):
        shop, old = wire.inner, list[str]()

        class Replaying(httpx.AsyncBaseTransport):
            async def handle_async_request(
                self, request: httpx.Request
            ) -> httpx.Response:
                if old:
                    return httpx.Response(200, headers={PAYMENT_RESPONSE: old[0]})
                answer = await shop.handle_async_request(request)
                old.extend(answer.headers.get_list(PAYMENT_RESPONSE))
                return answer

        wire.inner = Replaying()
        await agent.get(f"{BASE}/upto?used=300")
        await agent.get(f"{BASE}/upto")  # its signature is kept, and not used
        spending = await agent.spending()

        assert len(wire.credentials) == 2
        assert spending.spent == 300 * 10**12
        assert spending.held == PRICE * 10**12
