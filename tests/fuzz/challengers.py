"""What a server of MPP can send to a payer: challenges, receipts, and anything else."""

import contextlib
import time
from random import Random
from typing import Any

import httpx

from agentpay import Agent, Budget, Policy
from agentpay.errors import AgentPayError
from agentpay.evm.eip3009 import Authorization, transfer_digest
from agentpay.evm.session_escrow import charge_nonce
from agentpay.evm.signature import is_signed_by_key
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Asset, Hash32
from agentpay.wire.mpp.challenge import (
    WWW_AUTHENTICATE,
    Challenge,
    format_challenge,
    parse_challenges,
)
from agentpay.wire.mpp.credential import find_credential, parse_credential
from agentpay.wire.mpp.encoding import encode_base64url
from agentpay.wire.mpp.evm_charge import AuthorizationPayload, parse_charge_payload
from agentpay.wire.mpp.evm_write import charge_request
from agentpay.wire.mpp.problem import PROBLEM_JSON, ProblemKind, write_problem
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT, charge_receipt
from agentpay.wire.mpp.timestamps import format_time
from tests.fuzz.mutation import miswritten, mutated, written
from tests.fuzz.tally import Tally
from tests.payee.hand import NOBODY

PRICE = 1000
_PER_REQUEST = 50_000
_VALID_SECONDS = 600
_AGENT_LASTS = 400
_FIELDS = (None, "Authorization", "Payment-Authorization", "Host", "X Y", "")
_STRANGE = (
    "Payment",
    "payment ,,, Payment=",
    "Payment " + "\\" * 12_000,
    'Payment id="' + "\\" * 12_000,
    'Basic realm="Payment id=1", Payment',
    "Payment " + "a=" * 30_000,
    "Payment " * 8_000,
    'Payment id="\u00e9", ' * 40,
)


class Challengers(httpx.AsyncBaseTransport):
    """A server that answers as it is told, and an agent that would pay its charges."""

    def __init__(self, rng: Random, chain: LocalChain, tally: Tally) -> None:
        self._rng = rng
        self._chain = chain
        self._tally = tally
        self._number = 0
        self._agent: Agent | None = None
        self._paid: dict[Hash32, str] = {}

    async def start(self) -> None:
        self._wallet = await self._chain.funded_wallet("$50", ether=0)

    async def stop(self) -> None:
        if self._agent is not None:
            await self._agent.__aexit__()
            self._agent = None

    @property
    def _asset(self) -> Asset:
        return self._chain.usdc

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        names = ("authorization", "payment-authorization")
        paid = [line for name in names if (line := request.headers.get(name))]
        if not paid:
            return httpx.Response(402, headers=_fields(self._demands))
        self._look_at(paid[0])
        return self._answered()

    def _look_at(self, paid: str) -> None:
        """Whatever it was sent, our agent signs within its budget, for its token."""
        tally = self._tally
        tally.answers["agent paid a charge"] += 1
        credential = parse_credential(find_credential([paid]) or "")
        payload, echo = parse_charge_payload(credential.payload), credential.challenge
        if not isinstance(payload, AuthorizationPayload):
            tally.blame("a charge that is not by authorization", paid)
            return
        given = parse_challenges(line for name, line in self._demands)
        if echo not in given:
            tally.blame("a challenge that nobody gave out", paid)
        authorization = Authorization(
            payer=payload.payer,
            to=payload.to,
            value=payload.value,
            valid_after=payload.valid_after,
            valid_before=payload.valid_before,
            nonce=payload.nonce,
        )
        digest = transfer_digest(authorization, self._asset)
        signed = is_signed_by_key(self._wallet.address, digest, payload.signature)
        faults = {
            "it is not rightly signed": not signed,
            "more was signed than one request may cost": payload.value > _PER_REQUEST,
            "it is for nothing": payload.value == 0,
            "it lives too long": payload.valid_before > time.time() + _VALID_SECONDS,
            "it is bound to another challenge": (
                payload.nonce != charge_nonce(echo.id, echo.realm)
            ),
            "a challenge was paid twice": (
                self._paid.setdefault(payload.nonce, paid) != paid
            ),
        }
        for what, wrong in faults.items():
            if wrong:
                tally.blame(what, paid)

    async def one(self) -> None:
        """Make one 402 and what comes after it, and see what our agent does."""
        tally = self._tally
        if self._number % _AGENT_LASTS == 0:
            await self.stop()
            self._paid.clear()
            self._agent = await self._an_agent().__aenter__()
        self._number += 1
        host = f"h{self._number}.example"
        self._demands = [
            (WWW_AUTHENTICATE, self._a_demand(host))
            for _ in range(self._rng.choice((1, 1, 1, 2, 5)))
        ]
        tally.kinds["challenge"] += 1
        with contextlib.suppress(AgentPayError):
            tally.parsed += bool(parse_challenges(line for _, line in self._demands))
        agent = self._agent
        if agent is None:
            raise RuntimeError("there is no agent")
        try:
            response = await agent.get(f"https://{host}/ok")
            tally.answers["agent delivered"] += 1
            tally.accepted += response.status_code == 200
        except AgentPayError as error:
            tally.answers[f"agent {type(error).__name__}"] += 1

    def _an_agent(self) -> Agent:
        return Agent(
            self._wallet,
            budget=Budget(total="$40", per_request=_PER_REQUEST),
            policy=Policy(
                prefer=("charge",), give_up_seconds=0.01, quarantine_after=None
            ),
            network=self._chain.network,
            allow_private_networks=True,
            transport=self,
        )

    def _a_demand(self, host: str) -> str:
        rng = self._rng
        chance = rng.random()
        if chance < 0.05:
            return rng.choice(_STRANGE)
        line = format_challenge(self._a_challenge(host))
        if chance < 0.85:
            return line
        return rng.choice(
            (
                line[: rng.randrange(len(line))],
                line.replace('"', "", 1),
                line.replace("=", " = ").upper(),
                line + ", " + line.removeprefix("Payment "),
                line + f', expires="{rng.choice(("soon", "9999", ""))}"',
                f"Negotiate, {line}, Bearer",
            )
        )

    def _a_challenge(self, host: str) -> Challenge:
        rng, asset = self._rng, self._asset
        amount = rng.choice(
            (0, 1, PRICE, PRICE, _PER_REQUEST, _PER_REQUEST + 1, 2**100)
        )
        request: Any = charge_request(
            chain=asset.chain,
            currency=asset.address,
            recipient=NOBODY,
            amount=amount,
            credential_types=self._odd(("authorization",), (("permit2", "hash"), ())),
            decimals=asset.decimals,
        )
        if rng.random() < 0.3:
            request = mutated(rng, request, rng.choice((1, 1, 2, 3)))
        right = rng.random() < 0.95
        raw = (written if right else miswritten)(rng, request)
        lives = self._odd(300, (None, -1, 0, 10**6))
        return Challenge(
            id=self._odd(rng.randbytes(16).hex(), ("same", "x" * 5000)),
            realm=self._odd(host, ("Shop", "bank.example", "\u0440ank.example")),
            method=self._odd("evm", ("tempo", "EVM", "stripe")),
            intent=self._odd("charge", ("session", "x")),
            request=encode_base64url(raw),
            expires=None if lives is None else format_time(int(time.time()) + lives),
            digest=self._odd(None, ("sha-256=x", "")),
            description=self._odd(None, ("\u202efree", "x" * 5000)),
            header=self._odd(None, _FIELDS),
            opaque=self._odd(None, ("trace-123", "e30")),
        )

    def _odd(self, right: Any, wrong: tuple[Any, ...]) -> Any:
        """What is right, mostly."""
        return self._rng.choice(wrong) if self._rng.random() < 0.08 else right

    def _answered(self) -> httpx.Response:
        """What a payment is answered: a receipt, another 402, or rubbish."""
        rng = self._rng
        status = rng.choices((200, 402, 409, 503, 500, 302), (50, 34, 5, 1, 5, 5))[0]
        headers: list[tuple[str, str]] = []
        if rng.random() < 0.8:
            headers.append((PAYMENT_RECEIPT, self._a_receipt()))
        body = b"sold"
        if status >= 400 and rng.random() < 0.9:
            headers += self._demands
            headers.append(("content-type", PROBLEM_JSON))
            body = write_problem(rng.choice(list(ProblemKind)), "no")
            if rng.random() < 0.3:
                body = rng.choice((b"", b"{", b"[]", body * 5000))
        return httpx.Response(status, headers=_fields(headers), content=body)

    def _a_receipt(self) -> str:
        rng, asset = self._rng, self._asset
        receipt: Any = charge_receipt(
            challenge_id=rng.choice(("same", "other")),
            chain=asset.chain,
            transaction=Hash32.of(rng.randbytes(32)),
            at=int(time.time()),
        )
        if rng.random() < 0.5:
            receipt = mutated(rng, receipt)
        right = rng.random() < 0.8
        return encode_base64url((written if right else miswritten)(rng, receipt))


def _fields(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers]
