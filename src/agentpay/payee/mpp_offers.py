"""
What a payee offers by MPP: challenges beside the offers of x402, and their problems.

Source: draft-httpauth-payment-00; "Request Schema" of draft-evm-charge-00 and of
draft-evm-session-00. A route that takes one transfer takes it by either protocol, and
one that takes vouchers of a channel takes those of a session, at one price.
"""

import secrets as randomness
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agentpay.core.meter import REQUEST
from agentpay.errors import ConfigurationError, MalformedMessage
from agentpay.payee.answers import request_of
from agentpay.payee.offers import NO_PAYMENT, PayeeSettings, payment_required
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Refusal
from agentpay.wire import parallel
from agentpay.wire.headers import read_object
from agentpay.wire.mpp import binding
from agentpay.wire.mpp.binding import BindingSecrets
from agentpay.wire.mpp.challenge import (
    AUTHORIZATION,
    WWW_AUTHENTICATE,
    Challenge,
    format_challenge,
    is_default_field,
)
from agentpay.wire.mpp.encoding import encode_base64url
from agentpay.wire.mpp.evm_charge import CHARGE, METHOD
from agentpay.wire.mpp.evm_session import SESSION
from agentpay.wire.mpp.evm_write import charge_request, session_request
from agentpay.wire.mpp.preference import parse_accept_payment, rank
from agentpay.wire.mpp.problem import (
    PROBLEM_JSON,
    Books,
    ProblemKind,
    write_problem,
)
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    EIP3009,
    EXACT,
    PAYMENT_RESPONSE,
    PERMIT2,
)

BY_AUTHORIZATION = "authorization"
BY_PERMIT2 = "permit2"
BY_HASH = "hash"
PER_REQUEST = REQUEST.name

UNKNOWN = ProblemKind.INTERNAL_ERROR
"""With a 503: what became of a payment is not known, so send it again as it is."""

_KINDS = {
    400: ProblemKind.MALFORMED_CREDENTIAL,
    409: ProblemKind.CREDENTIAL_REPLAYED,
}
_NOTHING = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MppTerms:
    """How a payee takes payments by MPP, beside x402."""

    realm: str
    """The protection space that challenges name: usually the host."""
    secrets: tuple[bytes, ...] = field(repr=False)
    """What challenges are bound with, 32 bytes or more each; see `BindingSecrets`."""
    header: str | None = None
    """The field of credentials, where `Authorization` is the application's own."""
    body_bytes_max: int = 1024 * 1024
    """A request with a longer body is offered no charge: its challenge is for one body,
    so the body is read before it is paid for."""
    deposit_requests: int = 100
    """For how many requests a deposit is suggested to payers who open a session."""

    def __post_init__(self) -> None:
        """
        Raises:
            ConfigurationError: A secret is short, the realm or the header cannot be
                written, the bound is negative, or no request is suggested.
        """
        if self.body_bytes_max < 0:
            raise ConfigurationError(f"body_bytes_max is {self.body_bytes_max}")
        if self.deposit_requests < 1:
            raise ConfigurationError(f"deposit_requests is {self.deposit_requests}")
        trial = binding.Terms(
            realm=self.realm,
            method=METHOD,
            intent=CHARGE,
            request={},
            scope="trial",
            header=self.header,
        )
        nonce = bytes(binding.NONCE_BYTES)
        challenge = binding.issue(
            trial, secrets=self.binding, nonce=nonce, expires_at=0
        )
        try:
            format_challenge(challenge)
        except MalformedMessage as error:
            raise ConfigurationError(f"no challenge can be written: {error}") from error

    @property
    def binding(self) -> BindingSecrets:
        """The secrets, checked."""
        return BindingSecrets(secrets=self.secrets)

    @property
    def credential_field(self) -> str:
        """The name of the request field that carries credentials."""
        default = is_default_field(self.header)
        return AUTHORIZATION if default else str(self.header)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request is beside its route: a charge's challenge is for exactly that."""

    body: bytes | None = b""
    """None: longer than we read, and then it cannot be paid for by a charge."""
    preference: Sequence[str] = ()
    """The lines of its `Accept-Payment`."""
    keys: Sequence[str] = ()
    """The lines of its `Idempotency-Key`."""
    content: bool = True
    """Whether it wants anything: a `HEAD` only brings a voucher of a session."""
    alternatives: Sequence[Terms] = ()
    """What else costs at its path: a `HEAD` may be for any method there."""


def mpp_offers(
    settings: PayeeSettings, mpp: MppTerms, terms: Terms
) -> tuple[binding.Terms, ...]:
    """
    What a route asks for by MPP.

    The charge is first: some clients know no other, and look no further.
    """
    offers = charge_offer(settings, mpp, terms), session_offer(settings, mpp, terms)
    return tuple(offer for offer in offers if offer is not None)


def charge_offer(
    settings: PayeeSettings, mpp: MppTerms, terms: Terms
) -> binding.Terms | None:
    """One transfer for one request; None where the route takes none."""
    if EXACT not in terms.schemes or not settings.asset.eip3009:
        return None
    request = charge_request(
        chain=settings.asset.chain,
        currency=settings.asset.address,
        recipient=settings.pay_to,
        amount=terms.maximum,
        credential_types=(BY_AUTHORIZATION,),
        decimals=settings.asset.decimals,
    )
    return binding.Terms(
        realm=mpp.realm,
        method=METHOD,
        intent=CHARGE,
        request=request,
        # Of a fixed length, and without what a path or a query may hold.
        scope=encode_base64url(request_of(terms)),
        header=mpp.header,
    )


def session_offer(
    settings: PayeeSettings, mpp: MppTerms, terms: Terms
) -> binding.Terms | None:
    """
    Vouchers for many requests; None where the route takes none.

    It holds for one method and path, with any query and any body: a voucher pays for
    whatever request it comes with, and costs no 402 of its own.
    """
    if BATCH_SETTLEMENT not in terms.schemes or settings.escrow is None:
        return None
    unit_price, unit_type = terms.per_unit
    said = parallel.info(settings.parallel)
    if terms.first != unit_price:
        said["maximum"] = str(terms.first)  # what a request reserves when it begins
    request = session_request(
        chain=settings.asset.chain,
        currency=settings.asset.address,
        recipient=settings.pay_to,
        escrow=settings.escrow,
        unit_price=unit_price,
        unit_type=unit_type,
        suggested_deposit=max(
            settings.min_deposit, mpp.deposit_requests * terms.maximum
        ),
        min_voucher_delta=0,
        fee_payer=True,
        credential_types=session_types(settings),
        parallel=said,
    )
    return binding.Terms(
        realm=mpp.realm,
        method=METHOD,
        intent=SESSION,
        request=request,
        scope=encode_base64url(request_of(_whatever_is_asked(terms))),
        header=mpp.header,
    )


def _whatever_is_asked(terms: Terms) -> Terms:
    """Of a route only its method and path: `HEAD` is for what `GET` is for."""
    method, _, path = terms.resource.partition(" ")
    method = "GET" if method == "HEAD" else method
    return replace(terms, resource=f"{method} {path}", query="")


def session_types(settings: PayeeSettings) -> tuple[str, ...]:
    """How payers may fund a session: first the ways that cost them no gas."""
    ours = {EIP3009: BY_AUTHORIZATION, PERMIT2: BY_PERMIT2}
    return (*[ours[method] for method in settings.transfer_methods], BY_HASH)


def challenges(
    settings: PayeeSettings, mpp: MppTerms, terms: Terms, asked: Asked, *, now: int
) -> tuple[Challenge, ...]:
    """Fresh challenges for one request, in the order that its client likes."""
    offers = mpp_offers(settings, mpp, terms)
    if asked.body is None:
        offers = tuple(offer for offer in offers if offer.intent == SESSION)
    order: Sequence[int] = range(len(offers))
    if asked.preference and offers:
        try:
            ranges = parse_accept_payment(asked.preference)
        except MalformedMessage:
            ranges = ()  # the draft: a server may ignore it
        if ranges:
            order = rank(ranges, [(offer.method, offer.intent) for offer in offers])
    return tuple(
        binding.issue(
            offers[index],
            secrets=mpp.binding,
            nonce=randomness.token_bytes(binding.NONCE_BYTES),
            expires_at=now + settings.max_timeout_seconds,
            body=(asked.body or b"") if offers[index].intent == CHARGE else b"",
        )
        for index in order
    )


def with_challenges(
    refusal: Refusal,
    settings: PayeeSettings,
    mpp: MppTerms,
    terms: Terms,
    asked: Asked,
    *,
    now: int,
) -> Refusal:
    """A 402 with fresh challenges beside its offers, and a problem for its body."""
    if refusal.status != 402:
        return refusal
    headers = {**refusal.headers, "content-type": PROBLEM_JSON}
    fresh = challenges(settings, mpp, terms, asked, now=now)
    if fresh:
        lines = [format_challenge(challenge) for challenge in fresh]
        headers[WWW_AUTHENTICATE.lower()] = ", ".join(lines)
    if refusal.body != _NOTHING:
        return replace(refusal, headers=headers)
    error = _error_of(refusal)
    unpaid = error == NO_PAYMENT
    kind = ProblemKind.PAYMENT_REQUIRED if unpaid else ProblemKind.VERIFICATION_FAILED
    return replace(refusal, headers=headers, body=write_problem(kind, error))


def problem(
    settings: PayeeSettings,
    terms: Terms,
    kind: ProblemKind,
    detail: str,
    *,
    status: int | None = None,
    challenge_id: str | None = None,
    channel_id: str | None = None,
    books: Books | None = None,
) -> Refusal:
    """
    What is wrong with a credential; the challenges are added by `with_challenges`.

    What is not a 402 asks for nothing; a 503 asks for the same again.
    """
    body = write_problem(
        kind,
        detail,
        status=status,
        challenge_id=challenge_id,
        channel_id=channel_id,
        books=books,
    )
    status = status or kind.status
    if status == 402:
        return replace(payment_required(settings, terms, error=detail), body=body)
    headers = {"content-type": PROBLEM_JSON, "cache-control": "no-store"}
    if status == 503:
        headers["retry-after"] = "1"
    return Refusal(status=status, headers=headers, body=body)


def failed(refusal: Refusal, *, challenge_id: str | None = None) -> Refusal:
    """
    What x402 says of a payment, as MPP says it: in a problem, and in no receipt.

    Its type tells a client that this is not its application's own answer.
    """
    unspoken = PAYMENT_RESPONSE.lower()
    if refusal.status != 402 and unspoken not in refusal.headers:
        return refusal
    headers = {n: v for n, v in refusal.headers.items() if n != unspoken}
    if refusal.body != _NOTHING and refusal.status == 402:
        return replace(refusal, headers=headers)
    if refusal.status == 402:
        kind, detail = ProblemKind.VERIFICATION_FAILED, _error_of(refusal)
    else:
        kind, detail = _KINDS.get(refusal.status, UNKNOWN), _words_of(refusal)
    body = write_problem(kind, detail, status=refusal.status, challenge_id=challenge_id)
    return replace(refusal, headers=headers, body=body)


def _words_of(refusal: Refusal) -> str:
    words = read_object(refusal.body, name="a refusal")
    payment = f" (payment {words['payment']})" if "payment" in words else ""
    return f"{words.get('title')}: {words.get('detail')}{payment}"


def _error_of(refusal: Refusal) -> str:
    return str((refusal.required or {}).get("error", ""))
