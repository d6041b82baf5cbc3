"""
What a credential of a session says, once it agrees with a challenge of ours.

Source: draft-evm-session-00, "Common Verification". Nothing is looked up for it: a
challenge proves itself, and hashing says whether a payload is for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from agentpay.errors import MalformedMessage
from agentpay.evm.session_escrow import SessionConfig
from agentpay.payee.mpp_offers import Asked, MppTerms
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.pricing import Terms
from agentpay.payee.session_offers import session_offer
from agentpay.types import Address, Hash32
from agentpay.wire.mpp.binding import EchoFault, check_echo
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.credential import Credential
from agentpay.wire.mpp.evm_session import (
    ClosePayload,
    OpenByAuthorization,
    OpenByHash,
    OpenByPermit2,
    OpenDeposit,
    OpenPayload,
    SessionPayload,
    TopUpByAuthorization,
    TopUpByHash,
    TopUpByPermit2,
    VoucherPayload,
    parse_session_payload,
    parse_session_request,
)
from agentpay.wire.mpp.evm_session_terms import (
    Opening,
    ToppingUp,
    check_opening,
    check_top_up,
    escrow_of,
)
from agentpay.wire.mpp.idempotency import parse_idempotency_key
from agentpay.wire.mpp.source import parse_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """A credential whose challenge is ours, and with which it agrees."""

    payload: SessionPayload
    source: Address | None
    """Who is said to pay, where a transaction hash leaves that open."""
    terms: Terms
    echo: Challenge
    late: bool
    """Its challenge is over."""
    opens: SessionConfig | None
    """The session that it opens, if it does."""
    name: str | None
    """How its payer names the request, to be sold it once."""
    content: bool
    """Whether it wants more than to be taken."""

    @property
    def channel(self) -> Hash32:
        return self.payload.channel_id

    @property
    def deposit(self) -> Opening | ToppingUp | None:
        """What it puts into the session."""
        match self.payload:
            case VoucherPayload():
                return self.payload.deposit
            case ClosePayload():
                return None
            case _:
                return self.payload

    @property
    def voucher(self) -> tuple[int, bytes]:
        """An amount and its signature; 0 and nothing where there is no voucher."""
        payload = self.payload
        match payload:
            case VoucherPayload() | ClosePayload() | OpenByHash():
                return payload.cumulative_amount, payload.signature
            case OpenByAuthorization() | OpenByPermit2():
                return payload.cumulative_amount, payload.voucher_signature
            case TopUpByHash() | TopUpByAuthorization() | TopUpByPermit2():
                return 0, b""
            case _:
                assert_never(payload)


class SessionReading:
    """Reads credentials for one payee."""

    def __init__(self, *, settings: PayeeSettings, mpp: MppTerms) -> None:
        self._settings = settings
        self._mpp = mpp

    def is_ours(self, config: SessionConfig) -> bool:
        """Whether a session that we know pays us as we are paid now."""
        settings, terms = self._settings, config.terms
        paid = (terms.payee, terms.token, config.escrow.contract)
        return paid == (settings.pay_to, settings.asset.address, settings.escrow)

    def route_of(
        self, echo: Challenge, choices: Sequence[Terms], *, now: int
    ) -> tuple[Terms, EchoFault | None]:
        """Which route a challenge is for, and what is wrong with it if anything is."""
        first: EchoFault | None = None
        for terms in choices:
            offer = session_offer(self._settings, self._mpp, terms)
            fault: EchoFault | None = EchoFault.REQUEST
            if offer is not None:
                fault = check_echo(echo, offer, secrets=self._mpp.binding, now=now)
            if fault in (None, EchoFault.EXPIRED):
                return terms, fault
            first = first or fault
        return choices[0], first

    def read(
        self, credential: Credential, terms: Terms, asked: Asked, *, late: bool
    ) -> Presented:
        """
        Read what is presented under a challenge that is ours.

        Raises:
            MalformedMessage: It does not agree with the challenge, or with itself.
        """
        payload = parse_session_payload(credential.payload)
        presented = Presented(
            payload=payload,
            source=self._source(credential),
            terms=terms,
            echo=credential.challenge,
            late=late,
            opens=None,
            name=parse_idempotency_key(asked.keys),
            content=asked.content,
        )
        return replace(presented, opens=self._opens(presented))

    def _opens(self, presented: Presented) -> SessionConfig | None:
        deposit, channel = presented.deposit, presented.channel
        if deposit is None:
            return None
        request = parse_session_request(presented.echo.decode_request())
        if not isinstance(deposit, OpenPayload | OpenDeposit):
            check_top_up(deposit, request, channel=channel)
            return None
        terms = check_opening(
            deposit, request, channel=channel, source=presented.source
        )
        return SessionConfig(terms=terms, escrow=escrow_of(request))

    def _source(self, credential: Credential) -> Address | None:
        if credential.source is None:
            return None
        chain, account = parse_source(credential.source)
        if chain != self._settings.asset.chain:
            raise MalformedMessage(f"source is on chain {chain}, and this is another")
        return account
