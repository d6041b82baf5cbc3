"""A payer that does by hand whatever a test wants, right or wrong."""

import json
import secrets
import time
from base64 import b64decode
from dataclasses import replace
from typing import Any

from agentpay import Wallet
from agentpay.evm import permit2
from agentpay.evm.addresses import ERC3009_COLLECTOR, PERMIT2
from agentpay.evm.batch_settlement import (
    PARALLEL_TAG,
    ChannelConfig,
    channel_id,
    deposit_nonce,
    voucher_digest,
)
from agentpay.evm.eip2612 import Permit, SignedPermit, permit_digest
from agentpay.evm.eip3009 import Authorization, receive_digest, transfer_digest
from agentpay.evm.permit2 import PermitDeposit, PermitTransfer
from agentpay.payee.offers import PayeeSettings, make_offers
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order, Route, Terms
from agentpay.payee.sales import Refusal, Sale
from agentpay.ports import Signer
from agentpay.types import Address, Asset, Hash32
from agentpay.wire import parallel, payment_identifier
from agentpay.wire import x402_sponsoring as sponsoring
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject, encode_json
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PaymentRequired,
    PaymentResponse,
    parse_payment_required,
    parse_response,
)
from agentpay.wire.x402_terms import method_of

ROUTE = Route(price=1000)
HALVES = Route(price=1000, metered=True)


def terms_of(
    payee: Payee, route: Route = ROUTE, *, resource: str = "GET /ok", **changes: Any
) -> Terms:
    terms = payee.terms(route, resource=resource, url="http://shop.example/ok")
    return replace(terms, **changes)


EXACT_FIRST = Route(price=1000, schemes=("exact",), order=Order.SETTLE_FIRST)


class HandPayer:
    """Signs what it is told to for one payee; nothing is checked or remembered."""

    def __init__(self, wallet: Wallet, settings: PayeeSettings) -> None:
        self.wallet = wallet
        self.settings = settings

    @property
    def asset(self) -> Asset:
        return self.settings.asset

    def config(self, *, tagged: bool = True, **changes: Any) -> ChannelConfig:
        tag = PARALLEL_TAG if tagged else bytes(4)
        config = ChannelConfig(
            payer=self.wallet.address,
            payer_authorizer=self.wallet.address,
            receiver=self.settings.pay_to,
            receiver_authorizer=self.settings.authorizer,
            token=self.asset.address,
            withdraw_delay=self.settings.withdraw_delay,
            salt=Hash32.of(tag + secrets.token_bytes(28)),
        )
        return replace(config, **changes)

    def offer(
        self, terms: Terms, scheme: str = BATCH_SETTLEMENT, *, method: str = "eip3009"
    ) -> JsonObject:
        return next(
            offer
            for offer in make_offers(self.settings, terms)
            if offer["scheme"] == scheme and method_of(offer) == method
        )

    async def voucher(
        self,
        config: ChannelConfig,
        cumulative: int,
        terms: Terms,
        *,
        kind: str = "voucher",
        signer: Signer | None = None,
        signature: bytes | None = None,
        channel: Hash32 | None = None,
        accepted: JsonObject | None = None,
        deposit: JsonObject | None = None,
        query: bool = False,
        url: str = "",
        extensions: JsonObject | None = None,
    ) -> str:
        """The header of a channel payment, which does not say for what unless told."""
        chain = self.asset.chain
        named = channel or channel_id(config, chain)
        if signature is None:
            digest = voucher_digest(named, cumulative, chain)
            signature = await (signer or self.wallet).sign_digest(digest, chain=chain)
        payload = write.voucher_payload(kind, config, named, cumulative, signature)
        if deposit is not None:
            payload["deposit"] = deposit
        tag = parallel.echo(self.settings.parallel, query=query)
        message = write.payment(
            accepted=accepted if accepted is not None else self.offer(terms),
            payload=payload,
            url=url,
            extensions={**(tag if config.tagged else {}), **(extensions or {})},
        )
        return encode_json(message)

    async def deposit(
        self,
        config: ChannelConfig,
        amount: int,
        *,
        valid_before: int | None = None,
        salt: Hash32 | None = None,
        signer: Signer | None = None,
    ) -> JsonObject:
        """The part of a payment that funds a channel."""
        salt = salt or Hash32.of(secrets.token_bytes(32))
        before = int(time.time()) + 300 if valid_before is None else valid_before
        channel = channel_id(config, self.asset.chain)
        authorization = Authorization(
            payer=config.payer,
            to=ERC3009_COLLECTOR,
            value=amount,
            valid_after=0,
            valid_before=before,
            nonce=deposit_nonce(channel, salt),
        )
        digest = receive_digest(authorization, self.asset)
        chain = self.asset.chain
        signature = await (signer or self.wallet).sign_digest(digest, chain=chain)
        return write.deposit_part(
            amount=amount, valid_before=before, salt=salt, signature=signature
        )

    async def funding(
        self,
        config: ChannelConfig,
        amount: int,
        cumulative: int,
        terms: Terms,
        *,
        depositor: Signer | None = None,
        **more: Any,
    ) -> str:
        """The header of a request that opens a channel; `more` is of its voucher."""
        deposit = await self.deposit(config, amount, signer=depositor)
        return await self.voucher(
            config, cumulative, terms, kind="deposit", deposit=deposit, **more
        )

    async def permit2(
        self,
        terms: Terms,
        *,
        scheme: str = "exact",
        extensions: JsonObject | None = None,
        accepted: JsonObject | None = None,
        signer: Signer | None = None,
        **changes: Any,
    ) -> str:
        """The header of an `exact` or `upto` payment by Permit2."""
        facilitator = self.settings.facilitator if scheme == "upto" else None
        transfer = PermitTransfer(
            payer=self.wallet.address,
            token=self.asset.address,
            amount=terms.maximum,
            nonce=secrets.randbits(256),
            deadline=int(time.time()) + 300,
            to=self.settings.pay_to,
            valid_after=0,
            facilitator=facilitator,
        )
        transfer = replace(transfer, **changes)
        chain = self.asset.chain
        digest = permit2.transfer_digest(transfer, chain)
        signature = await (signer or self.wallet).sign_digest(digest, chain=chain)
        message = write.payment(
            accepted=accepted or self.offer(terms, scheme, method="permit2"),
            payload=write.permit2_payload(transfer, signature),
            url="",
            extensions=extensions or {},
        )
        return encode_json(message)

    async def permit2_deposit(self, config: ChannelConfig, amount: int) -> JsonObject:
        """The part of a payment that funds a channel by Permit2."""
        deposit = PermitDeposit(
            payer=config.payer,
            token=config.token,
            amount=amount,
            nonce=secrets.randbits(256),
            deadline=int(time.time()) + 300,
            channel=channel_id(config, self.asset.chain),
        )
        digest = permit2.deposit_digest(deposit, self.asset.chain)
        signature = await self.wallet.sign_digest(digest, chain=self.asset.chain)
        return write.permit2_deposit_part(deposit, signature)

    async def approval(self, amount: int, *, nonce: int = 0) -> JsonObject:
        """The extension that lets Permit2 take `amount`, without our gas."""
        permit = Permit(
            owner=self.wallet.address,
            spender=PERMIT2,
            value=amount,
            nonce=nonce,
            deadline=int(time.time()) + 300,
        )
        digest = permit_digest(permit, self.asset)
        signature = await self.wallet.sign_digest(digest, chain=self.asset.chain)
        signed = SignedPermit(permit=permit, signature=signature)
        return sponsoring.permit_info(signed, self.asset)

    async def transfer(
        self,
        terms: Terms,
        *,
        accepted: JsonObject | None = None,
        signer: Signer | None = None,
        url: str = "",
        **changes: Any,
    ) -> str:
        """The header of an `exact` payment, which does not say for what unless told."""
        authorization = Authorization(
            payer=self.wallet.address,
            to=self.settings.pay_to,
            value=terms.maximum,
            valid_after=0,
            valid_before=int(time.time()) + 300,
            nonce=Hash32.of(secrets.token_bytes(32)),
        )
        authorization = replace(authorization, **changes)
        digest = transfer_digest(authorization, self.asset)
        chain = self.asset.chain
        signature = await (signer or self.wallet).sign_digest(digest, chain=chain)
        message = write.payment(
            accepted=accepted or self.offer(terms, "exact"),
            payload=write.exact_payload(authorization, signature),
            url=url,
            extensions={},
        )
        return encode_json(message)


def refused(outcome: Sale | Refusal) -> Refusal:
    """The outcome, which must be a refusal."""
    assert isinstance(outcome, Refusal), outcome
    return outcome


def sold(outcome: Sale | Refusal) -> Sale:
    """The outcome, which must be a sale."""
    assert not isinstance(outcome, Refusal), (outcome, said(outcome))
    return outcome


async def serve(outcome: Sale | Refusal, charged: int | None = None) -> PaymentResponse:
    """Carry a sale through; returns its receipt."""
    sale = sold(outcome)
    receipt = await sale.commit(sale.maximum if charged is None else charged)
    assert isinstance(receipt, str), receipt
    await sale.delivered()
    return parse_response(receipt)


def said(refusal: Refusal) -> PaymentRequired:
    """The 402 that a refusal is, or the 412 that offers the same."""
    assert refusal.status in (402, 412), refusal
    return parse_payment_required(refusal.headers[PAYMENT_REQUIRED.lower()])


def code(refusal: Refusal) -> str:
    """Why it was refused, without the prefix and the details."""
    error = said(refusal).error.removeprefix("invalid_batch_settlement_evm_")
    return error.partition(":")[0]


def receipt_of(refusal: Refusal) -> PaymentResponse:
    """The receipt that a refusal carries."""
    return parse_response(refusal.headers[PAYMENT_RESPONSE.lower()])


def fate_of(refusal: Refusal) -> tuple[str, int]:
    """What a refusal says of a parallel voucher."""
    outcome = parallel.read_outcome(receipt_of(refusal))
    assert outcome is not None
    return outcome.fate, outcome.charged


def decoded(header: str) -> dict[str, Any]:
    """A header's JSON."""
    message: dict[str, Any] = json.loads(b64decode(header))
    return message


NOBODY = Address("0x" + "77" * 20)


def named(header: str, name: str) -> str:
    """The same payment under a name."""
    message = decoded(header)
    message.setdefault("extensions", {})[payment_identifier.KEY] = (
        payment_identifier.echo(payment_identifier.offer(), name)
    )
    return encode_json(message)
