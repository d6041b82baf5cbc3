"""A payer of MPP charges that does by hand whatever a test wants, right or wrong."""

import time
from dataclasses import replace
from typing import Any

import httpx

from agentpay import MppTerms, Wallet
from agentpay.evm.eip3009 import Authorization, transfer_digest
from agentpay.evm.session_escrow import charge_nonce
from agentpay.types import Asset
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.challenge import Challenge, parse_challenges
from agentpay.wire.mpp.credential import Credential, format_credential
from agentpay.wire.mpp.evm_charge import ChargeRequest, parse_charge_request
from agentpay.wire.mpp.evm_write import authorization_payload
from agentpay.wire.mpp.problem import Problem, read_problem
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT, ChargeReceipt, parse_receipt
from agentpay.wire.mpp.source import format_source

SECRET = b"a secret for tests, of 32 bytes or more"
MPP = MppTerms(realm="shop.example", secrets=(SECRET,))


def challenge_of(answer: httpx.Response) -> Challenge:
    """The one challenge of a 402."""
    (challenge,) = parse_challenges(answer.headers.get_list("www-authenticate"))
    return challenge


def asked_of(challenge: Challenge) -> ChargeRequest:
    """What a challenge asks for."""
    return parse_charge_request(challenge.decode_request())


def problem_of(answer: httpx.Response) -> Problem:
    """What an answer says is wrong."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = read_problem(answer.content)
    assert problem is not None
    return problem


def kind_of(answer: httpx.Response) -> str:
    """The end of a problem's type."""
    return problem_of(answer).type.removeprefix("https://paymentauth.org/problems/")


def receipt_of(answer: httpx.Response) -> ChargeReceipt:
    """The receipt of an answer."""
    return parse_receipt(answer.headers[PAYMENT_RECEIPT], ChargeReceipt)


class ChargePayer:
    """Signs charges as it is told; nothing is checked or remembered."""

    def __init__(self, wallet: Wallet, asset: Asset) -> None:
        self.wallet = wallet
        self.asset = asset

    async def payload(
        self, challenge: Challenge, *, signer: Wallet | None = None, **changes: Any
    ) -> JsonObject:
        """The payload of a credential."""
        asked = asked_of(challenge)
        authorization = Authorization(
            payer=self.wallet.address,
            to=asked.recipient,
            value=asked.amount,
            valid_after=0,
            valid_before=int(time.time()) + 300,
            nonce=charge_nonce(challenge.id, challenge.realm),
        )
        authorization = replace(authorization, **changes)
        digest = transfer_digest(authorization, self.asset)
        chain = self.asset.chain
        signature = await (signer or self.wallet).sign_digest(digest, chain=chain)
        return authorization_payload(authorization, signature)

    async def credential(self, challenge: Challenge, **changes: Any) -> str:
        """The value of the header that pays for a challenge."""
        payload = await self.payload(challenge, **changes)
        source = format_source(self.asset.chain, self.wallet.address)
        return format_credential(
            Credential(challenge=challenge, payload=payload, source=source)
        )

    async def pays(self, challenge: Challenge, **changes: Any) -> dict[str, str]:
        """The headers of a request that pays for a challenge."""
        value = await self.credential(challenge, **changes)
        return {challenge.credential_field: value}
