"""A payer of MPP sessions that does by hand whatever a test wants, right or wrong."""

import secrets
import time
from dataclasses import replace
from typing import Any

import httpx

from agentpay import Wallet
from agentpay.evm.batch_settlement import PARALLEL_TAG
from agentpay.evm.session_deposit import Permit2SessionDeposit, TokenSessionDeposit
from agentpay.evm.session_escrow import (
    Escrow,
    SessionConfig,
    SessionTerms,
    voucher_digest,
)
from agentpay.payee.offers import PayeeSettings
from agentpay.types import Asset, Hash32
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp import evm_write as write
from agentpay.wire.mpp.challenge import Challenge, parse_challenges
from agentpay.wire.mpp.credential import Credential, format_credential
from agentpay.wire.mpp.evm_session import SessionRequest, parse_session_request
from agentpay.wire.mpp.outcome import PAYMENT_VOUCHER, SessionOutcome, parse_outcome
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT, SessionReceipt, parse_receipt
from agentpay.wire.mpp.source import format_source


def session_of(answer: httpx.Response) -> Challenge:
    """The one challenge of a 402 that asks for a session."""
    challenges = parse_challenges(answer.headers.get_list("www-authenticate"))
    (session,) = [c for c in challenges if c.intent == "session"]
    return session


def wanted_of(challenge: Challenge) -> SessionRequest:
    """What a challenge asks for."""
    return parse_session_request(challenge.decode_request())


def session_receipt_of(answer: httpx.Response) -> SessionReceipt:
    """The receipt of an answer."""
    return parse_receipt(answer.headers[PAYMENT_RECEIPT], SessionReceipt)


def outcome_of(answer: httpx.Response) -> SessionOutcome:
    """What an answer says of its voucher."""
    return parse_outcome(answer.headers[PAYMENT_VOUCHER])


class SessionPayer:
    """Signs what it is told to, for one payee; nothing is checked or remembered."""

    def __init__(self, wallet: Wallet, settings: PayeeSettings) -> None:
        self.wallet = wallet
        self.settings = settings

    @property
    def asset(self) -> Asset:
        return self.settings.asset

    def config(self, *, tagged: bool = True, **changes: Any) -> SessionConfig:
        """A session that nobody has opened yet."""
        assert self.settings.escrow is not None
        tag = PARALLEL_TAG if tagged else bytes(4)
        terms = SessionTerms(
            payer=self.wallet.address,
            payee=self.settings.pay_to,
            token=self.asset.address,
            salt=Hash32.of(tag + secrets.token_bytes(28)),
        )
        escrow = Escrow(chain=self.asset.chain, contract=self.settings.escrow)
        return SessionConfig(terms=replace(terms, **changes), escrow=escrow)

    async def signature(
        self, config: SessionConfig, cumulative: int, *, signer: Wallet | None = None
    ) -> bytes:
        """The voucher's."""
        digest = voucher_digest(config.channel, cumulative, config.escrow)
        key = signer or self.wallet
        return await key.sign_digest(digest, chain=self.asset.chain)

    async def deposit(
        self,
        config: SessionConfig,
        amount: int,
        *,
        opens: bool = True,
        signer: Wallet | None = None,
        **changes: Any,
    ) -> TokenSessionDeposit:
        """Money for a session, by EIP-3009."""
        deposit = TokenSessionDeposit(
            config=config,
            asset=self.asset,
            payer=self.wallet.address,
            amount=amount,
            valid_after=0,
            valid_before=int(time.time()) + 300,
            signature=b"",
            top_up_salt=None if opens else Hash32.of(secrets.token_bytes(32)),
        )
        deposit = replace(deposit, **changes)
        key = signer or self.wallet
        signature = await key.sign_digest(deposit.digest(), chain=self.asset.chain)
        return replace(deposit, signature=signature)

    async def permit(
        self, config: SessionConfig, amount: int, *, opens: bool = True
    ) -> Permit2SessionDeposit:
        """Money for a session, by Permit2."""
        deposit = Permit2SessionDeposit(
            config=config,
            asset=self.asset,
            payer=self.wallet.address,
            amount=amount,
            nonce=secrets.randbits(256),
            deadline=int(time.time()) + 300,
            signature=b"",
            opens=opens,
        )
        chain = self.asset.chain
        signature = await self.wallet.sign_digest(deposit.digest(), chain=chain)
        return replace(deposit, signature=signature)

    # Payloads.

    async def open(
        self,
        config: SessionConfig,
        deposit: TokenSessionDeposit | Permit2SessionDeposit,
        cumulative: int = 0,
        **signed: Any,
    ) -> JsonObject:
        """`open`, for the server to send."""
        terms = config.terms
        return write.open_by_server(
            _kind(deposit),
            channel=config.channel,
            authorization=_authorization(deposit),
            signature=deposit.signature,
            cumulative=cumulative,
            voucher_signature=await self.signature(config, cumulative, **signed),
            salt=terms.salt,
            authorized_signer=terms.authorized_signer,
        )

    async def opened(
        self, config: SessionConfig, transaction: Hash32, cumulative: int = 0
    ) -> JsonObject:
        """`open`, sent by the payer."""
        return write.open_by_hash(
            channel=config.channel,
            transaction=transaction,
            cumulative=cumulative,
            voucher_signature=await self.signature(config, cumulative),
            salt=config.terms.salt,
            authorized_signer=config.terms.authorized_signer,
        )

    def top_up(
        self, deposit: TokenSessionDeposit | Permit2SessionDeposit
    ) -> JsonObject:
        """`topUp`, for the server to send."""
        salt = None
        if isinstance(deposit, TokenSessionDeposit):
            salt = deposit.top_up_salt
        return write.top_up_by_server(
            _kind(deposit),
            channel=deposit.config.channel,
            amount=deposit.amount,
            authorization=_authorization(deposit),
            signature=deposit.signature,
            salt=salt,
        )

    def filled(
        self, config: SessionConfig, transaction: Hash32, amount: int
    ) -> JsonObject:
        """`topUp`, sent by the payer."""
        return write.top_up_by_hash(config.channel, transaction, amount)

    async def voucher(
        self,
        config: SessionConfig,
        cumulative: int,
        deposit: TokenSessionDeposit | Permit2SessionDeposit | None = None,
        **signed: Any,
    ) -> JsonObject:
        """`voucher`, perhaps with the money that covers it."""
        signature = await self.signature(config, cumulative, **signed)
        merged = _merged(deposit) if deposit is not None else None
        return write.voucher_payload(config.channel, cumulative, signature, merged)

    async def close(
        self, config: SessionConfig, cumulative: int, **signed: Any
    ) -> JsonObject:
        """`close`."""
        signature = await self.signature(config, cumulative, **signed)
        return write.close_payload(config.channel, cumulative, signature)

    def headers(
        self, challenge: Challenge, payload: JsonObject, *, source: str | None = None
    ) -> dict[str, str]:
        """The headers of a request that presents a payload under a challenge."""
        named = source or format_source(self.asset.chain, self.wallet.address)
        credential = Credential(challenge=challenge, payload=payload, source=named)
        return {challenge.credential_field: format_credential(credential)}


def _kind(deposit: TokenSessionDeposit | Permit2SessionDeposit) -> str:
    return "authorization" if isinstance(deposit, TokenSessionDeposit) else "permit2"


def _authorization(
    deposit: TokenSessionDeposit | Permit2SessionDeposit,
) -> JsonObject:
    if isinstance(deposit, TokenSessionDeposit):
        return write.authorization_fields(deposit.authorization)
    terms = deposit.config.terms
    if not deposit.opens:
        return write.top_up_permit(
            payer=deposit.payer,
            token=terms.token,
            amount=deposit.amount,
            nonce=deposit.nonce,
            deadline=deposit.deadline,
            channel=deposit.config.channel,
        )
    return write.open_permit(
        payer=deposit.payer,
        token=terms.token,
        amount=deposit.amount,
        nonce=deposit.nonce,
        deadline=deposit.deadline,
        payee=terms.payee,
        salt=terms.salt,
        authorized_signer=terms.authorized_signer,
    )


def _merged(deposit: TokenSessionDeposit | Permit2SessionDeposit) -> JsonObject:
    if deposit.opens:
        return write.open_deposit(
            _kind(deposit),
            authorization=_authorization(deposit),
            signature=deposit.signature,
            salt=deposit.config.terms.salt,
            authorized_signer=deposit.config.terms.authorized_signer,
        )
    salt = deposit.top_up_salt if isinstance(deposit, TokenSessionDeposit) else None
    return write.top_up_deposit(
        _kind(deposit),
        authorization=_authorization(deposit),
        signature=deposit.signature,
        salt=salt,
    )
