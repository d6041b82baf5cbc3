"""What a server can send to a payer: 402s, receipts, and anything else."""

import json
from random import Random
from typing import Any

import httpx

from agentpay import Agent, Budget, Policy
from agentpay.errors import AgentPayError
from agentpay.payee.offers import payment_required
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Route, Terms
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from agentpay.wire import x402_write as write
from agentpay.wire.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    DepositPayload,
    ExactPayload,
    Permit2Payload,
    parse_payment,
    parse_payment_required,
    parse_response,
)
from tests.fuzz.mutation import header, miswritten, mutated, written
from tests.fuzz.signatures import rightly_signed
from tests.fuzz.tally import Tally

PRICE = 1000
_PER_REQUEST = 50_000
_SCHEMES = (("exact",), ("upto",), ("batch-settlement",), ("exact", "batch-settlement"))
_AGENT_LASTS = 400


class Sellers(httpx.AsyncBaseTransport):
    """A server that answers as it is told, and an agent that would pay it."""

    def __init__(self, rng: Random, chain: LocalChain, tally: Tally) -> None:
        self._rng = rng
        self._chain = chain
        self._tally = tally
        self._number = 0
        self._agent: Agent | None = None

    async def start(self) -> None:
        chain = self._chain
        payee = Payee(
            await chain.funded_wallet(0),
            network=chain.network,
            withdraw_delay=3600,
            transfer_methods=("eip3009", "permit2"),
        )
        self._payee = payee
        self._wallet = await chain.funded_wallet("$50", ether=0)

    async def stop(self) -> None:
        if self._agent is not None:
            await self._agent.__aexit__()
            self._agent = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        paid = request.headers.get(PAYMENT_SIGNATURE)
        if paid is None:
            headers = [(PAYMENT_REQUIRED.encode(), self._demand)]
            return httpx.Response(402, headers=headers)
        self._look_at(paid)
        return self._answered()

    def _look_at(self, paid: str) -> None:
        """Whatever it was sent, our agent signs within its budget, for its token."""
        payment = parse_payment(paid)
        payload, asset = payment.payload, self._payee.asset
        self._tally.answers["agent paid"] += 1
        if not rightly_signed(payload, asset):
            self._tally.blame("a credential that is not rightly signed", paid)
        match payload:
            case ExactPayload():
                signed = payload.authorization.value
            case Permit2Payload():
                signed = payload.permit2_authorization.permitted.amount
            case DepositPayload():
                signed = payload.voucher.max_claimable_amount
                if payload.deposit.amount > 1_000_000:
                    self._tally.blame("a deposit above the policy", paid)
            case _:
                signed = payload.voucher.max_claimable_amount
        if signed > _PER_REQUEST:
            self._tally.blame("more was signed than one request may cost", paid)

    async def one(self) -> None:
        """Make one 402 and what comes after it, and see what our agent does."""
        tally = self._tally
        if self._number % _AGENT_LASTS == 0:
            await self.stop()
            self._agent = await self._an_agent().__aenter__()
        self._number += 1
        self._url = f"http://h{self._number}.example/ok"
        self._demand = self._a_demand()
        tally.kinds["demand payment"] += 1
        try:
            parse_payment_required(self._demand.decode("latin-1"))
            tally.parsed += 1
        except AgentPayError:
            pass
        agent = self._agent
        if agent is None:
            raise RuntimeError("there is no agent")
        try:
            response = await agent.get(self._url)
            tally.answers["agent delivered"] += 1
            tally.accepted += response.status_code == 200
        except AgentPayError as error:
            tally.answers[f"agent {type(error).__name__}"] += 1

    def _an_agent(self) -> Agent:
        return Agent(
            self._wallet,
            budget=Budget(total="$40", per_request=_PER_REQUEST),
            policy=Policy(
                deposit="$0.01",
                low_water="$0.001",
                headroom="$0.05",
                give_up_seconds=0.01,
                quarantine_after=None,
                withdraw_when_cheated=False,
                pay_again_max=1,
            ),
            network=self._chain.network,
            allow_private_networks=True,
            transport=self,
        )

    def _a_demand(self) -> bytes:
        rng = self._rng
        message = self._required()
        chance = rng.random()
        if chance < 0.25:
            return header(rng, written(rng, message), right=True)
        if chance < 0.85:
            spoiled = mutated(rng, message, rng.choice((1, 1, 2, 3)))
            return header(rng, written(rng, spoiled), right=True)
        if chance < 0.93:
            return header(rng, miswritten(rng, message), right=True)
        return header(rng, written(rng, message), right=False)

    def _terms(self) -> Terms:
        rng = self._rng
        schemes = rng.choice(_SCHEMES)
        price = rng.choice((0, 1, PRICE, _PER_REQUEST, _PER_REQUEST + 1, 2**100))
        route = Route(price=price, schemes=schemes, metered=schemes == ("upto",))
        return self._payee.terms(route, resource="GET /ok", url=self._url)

    def _required(self) -> Any:
        refusal = payment_required(self._payee.settings, self._terms(), error="pay")
        return json.loads(json.dumps(refusal.required))

    def _answered(self) -> httpx.Response:
        """What a payment is answered: a receipt, another 402, or rubbish."""
        rng = self._rng
        headers: list[tuple[bytes, bytes]] = []
        status = rng.choices((200, 402, 409, 503, 500, 302), (50, 34, 5, 1, 5, 5))[0]
        if rng.random() < 0.9:
            headers.append((PAYMENT_RESPONSE.encode(), self._a_receipt()))
        if status == 402 and rng.random() < 0.9:
            headers.append((PAYMENT_REQUIRED.encode(), self._a_demand()))
        return httpx.Response(status, headers=headers, content=b"sold")

    def _a_receipt(self) -> bytes:
        rng, asset = self._rng, self._payee.asset
        receipt: Any = write.receipt(
            success=rng.random() < 0.6,
            chain=asset.chain,
            payer=self._wallet.address,
            transaction=Hash32.of(rng.randbytes(32)),
            amount=str(rng.choice((0, 1, PRICE, 2**128))),
            error=rng.choice((None, "insufficient_funds", "settlement_pending")),
            extra={
                "chargedAmount": str(rng.choice((0, PRICE, 2**127))),
                "channelState": write.channel_state(
                    channel=Hash32.of(rng.randbytes(32)),
                    balance=10_000,
                    claimed=0,
                    withdraw_requested_at=0,
                    refund_nonce=0,
                    charged=rng.choice((0, PRICE, 2**127)),
                ),
            },
        )
        chance = rng.random()
        if chance < 0.4:
            return header(rng, written(rng, receipt), right=True)
        if chance < 0.8:
            spoiled = written(rng, mutated(rng, receipt))
            raw = header(rng, spoiled, right=True)
        else:
            raw = header(rng, miswritten(rng, receipt), right=rng.random() < 0.5)
        try:
            parse_response(raw.decode("latin-1"))
        except AgentPayError:
            self._tally.answers["receipt unreadable"] += 1
        else:
            self._tally.answers["receipt readable"] += 1
        return raw
