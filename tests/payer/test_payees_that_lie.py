"""Payees that say what is not so: no budget is freed on their word."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentpay import Budget, Policy
from agentpay.core.payer_channel import PayerStatus
from agentpay.errors import (
    AgentPayError,
    AnswerLost,
    ChannelUnusable,
    NoAcceptableOffer,
)
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.headers import JsonObject, decode_json, encode_json
from agentpay.wire.x402 import PAYMENT_REQUIRED, PAYMENT_RESPONSE
from tests.http.world import (
    BASE,
    PRICE,
    QUICK,
    Wire,
    a_shop,
    an_agent,
    eventually,
    rewriting,
    through,
)
from tests.payer.books import at_rest, charged, spent
from tests.payer.test_lanes import EXACTLESS, official
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


class Pocketing(httpx.AsyncBaseTransport):
    """A payee that makes no deposit, and says that all went well, also a refund."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        credential = request.headers.get("payment-signature")
        if credential is None:
            return await self.inner.handle_async_request(request)
        payload: Any = decode_json(credential, name="payment")["payload"]
        voucher = payload["voucher"]
        said: JsonObject = {
            "success": True,
            "network": "eip155:31337",
            "transaction": "",
            "payer": payload["channelConfig"]["payer"],
            "extensions": {
                "parallel-vouchers": {
                    "info": {
                        "cumulative": voucher["maxClaimableAmount"],
                        "fate": "charged",
                        "charged": str(PRICE),
                    }
                }
            },
        }
        return httpx.Response(200, headers={PAYMENT_RESPONSE: encode_json(said)})


@pytest.mark.parametrize("how", ["close", "exit"])
async def test_c14_a_deposit_that_may_still_be_made_is_not_counted_as_come_back(
    agentpay_shared_chain: LocalChain, how: str
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (_, _, wall):
        wire = Pocketing(through(wall))
        wallet = await chain.funded_wallet(ether=1)
        async with await an_agent(chain, wire, wallet=wallet) as agent:
            assert (await agent.get(BASE + "/ok")).status_code == 200
            (record,) = await agent.channels()
            leave = agent.close_channel if how == "close" else agent.finish_withdrawal
            with contextlib.suppress(AgentPayError):
                await leave(record.channel)
            spending = await agent.spending()

        gone = spending.spent + spending.deposited + spending.held
        assert gone >= 100_000 * 10**12


async def test_c3_one_request_on_a_lane_is_charged_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    """The payee takes the voucher, and shows it as proof that more is needed."""
    chain = agentpay_shared_chain

    class Taking(Wire):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            paid = request.headers.get("payment-signature")
            if paid is None or "/dear" in str(request.url):
                return await super().handle_async_request(request)
            self.sent.append(request)
            voucher: Any = decode_json(paid, name="payment")["payload"]
            voucher = voucher["voucher"]
            headers = request.headers.copy()
            headers.pop("payment-signature")
            bare = httpx.Request(request.method, request.url, headers=headers)
            answer = await self.inner.handle_async_request(bare)
            required: Any = decode_json(answer.headers[PAYMENT_REQUIRED], name="x")
            total = voucher["maxClaimableAmount"]
            required["accepts"][0]["extra"] |= {
                "channelState": {"chargedCumulativeAmount": total},
                "voucherState": {
                    "signedMaxClaimable": total,
                    "signature": voucher["signature"],
                },
            }
            fields = {PAYMENT_REQUIRED: encode_json(required)}
            return httpx.Response(402, headers=fields)

    async with a_shop(chain) as (_, _, wall):
        wire = Taking(through(official(wall)))
        policy = Policy(deposit="$0.1", low_water=0, give_up_seconds=1)
        budget = Budget(total="$5", per_request="$0.05")
        async with await an_agent(chain, wire, policy=policy, budget=budget) as agent:
            assert (await agent.get(BASE + "/dear")).status_code == 200
            before = (await agent.spending()).spent
            with pytest.raises(AgentPayError):
                await agent.get(EXACTLESS)
            after = (await agent.spending()).spent

        assert after - before <= PRICE * 10**12


async def test_c14_a_deposit_is_signed_in_one_way_after_a_restart_too(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    """One by the token and one by Permit2 would both be made."""
    chain = agentpay_shared_chain
    methods = {"/ok": "eip3009", "/dear": "permit2"}
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet(ether=1),
        "store": str(tmp_path / "agent.db"),
        "policy": Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=0.3),
    }

    class Losing(Wire):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if "payment-signature" in request.headers:
                self.sent.append(request)
                raise httpx.ReadError("planned", request=request)
            answer = await self.inner.handle_async_request(request)
            required: Any = decode_json(answer.headers[PAYMENT_REQUIRED], name="x")
            required["accepts"] = [
                offer
                for offer in required["accepts"]
                if offer["scheme"] == "batch-settlement"
                and offer["extra"].get("assetTransferMethod", "eip3009")
                == methods[request.url.path]
            ]
            fields = {PAYMENT_REQUIRED: encode_json(required)}
            return httpx.Response(402, headers=fields)

    async with a_shop(chain, transfer_methods=("eip3009", "permit2")) as (_, _, wall):
        wire = Losing(through(wall))
        for path in methods:
            async with await an_agent(chain, wire, **options) as agent:
                await agent.approve_permit2("$5")
                with pytest.raises(AgentPayError):
                    await agent.get(BASE + path)

    payloads: list[Any] = [
        decode_json(c, name="x")["payload"] for c in wire.credentials
    ]
    signed = {str(payload.get("deposit")) for payload in payloads} - {"None"}
    assert len(wire.credentials) > 1
    assert len(signed) == 1


@pytest.mark.parametrize("plain", [False, True], ids=["parallel", "lane"])
async def test_c13_a_receipt_for_another_channel_is_not_believed(
    agentpay_shared_chain: LocalChain, plain: bool
) -> None:
    """Whatever it says: that this cost nothing, or all that was ever signed."""

    class Mixing(Wire):
        lies: tuple[str, str] | None = None

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await super().handle_async_request(request)
            if self.lies is not None and PAYMENT_RESPONSE in answer.headers:
                said: Any = decode_json(answer.headers[PAYMENT_RESPONSE], name="x")
                charged, total = self.lies
                state = {**said["extra"]["channelState"], "channelId": "0x" + "ab" * 32}
                state["chargedCumulativeAmount"] = total
                said["extra"] = {"channelState": state, "chargedAmount": charged}
                for info in said.get("extensions", {}).values():
                    info["info"]["charged"] = charged
                answer.headers[PAYMENT_RESPONSE] = encode_json(said)
            return answer

    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        wire = Mixing(through(official(wall) if plain else wall))
        policy = replace(QUICK, give_up_seconds=0.5)
        async with await an_agent(agentpay_shared_chain, wire, policy=policy) as agent:
            await agent.get(EXACTLESS)
            for lies in (("0", str(PRICE)), (str(10**9), str(10**9))):
                wire.lies = lies
                answer = await agent.get(EXACTLESS)
                booked = await spent(agent)
                wire.lies = None
                await eventually(lambda: at_rest(agent))

                assert answer.status_code == 200
                assert (
                    booked + PRICE == await spent(agent) == await charged(payee, agent)
                )
            channels = await agent.channels()

    assert all(r.ledger.status is PayerStatus.OPEN for r in channels)


class Broken(httpx.AsyncByteStream):
    """A body that breaks off."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"ans'
        raise httpx.ReadError("planned")


async def test_c8_an_answer_that_breaks_off_is_said_to_be_paid_for(
    agentpay_shared_chain: LocalChain,
) -> None:
    class Cutting(Wire):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            answer = await super().handle_async_request(request)
            if "payment-signature" in request.headers:
                answer.stream = Broken()
            return answer

    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Cutting(through(wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            with pytest.raises(AnswerLost) as lost:
                await agent.get(BASE + "/ok")

    assert lost.value.charged == PRICE


async def test_c8_a_deposit_that_was_not_made_keeps_nobody_longer_than_agreed(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    hasty = replace(QUICK, give_up_seconds=0.2)
    async with a_shop(chain) as (_, _, wall):
        wire = Pocketing(through(wall))
        async with await an_agent(chain, wire, policy=hasty) as agent:
            async with asyncio.timeout(15):
                answer = await agent.get(BASE + "/ok")

    assert answer.status_code == 200


async def test_c15_an_offer_that_no_channel_can_pay_ends_at_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    """A fresh channel is as unusable as the one before, and is not begun for ever."""

    def for_nothing(message: Any) -> Any:
        for offer in message["accepts"]:
            offer["amount"] = "0"
        return message

    policy = Policy(prefer=("batch-settlement",), give_up_seconds=1)
    budget = Budget(total="$0.002", per_request="$0.001")
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(rewriting(wall, PAYMENT_REQUIRED, for_nothing)))
        async with (
            await an_agent(
                agentpay_shared_chain, wire, policy=policy, budget=budget
            ) as agent,
            asyncio.timeout(20),
        ):
            with pytest.raises((ChannelUnusable, NoAcceptableOffer)) as ended:
                await agent.get(BASE + "/ok")

    assert "used up" in str(ended.value)
    assert not wire.credentials
