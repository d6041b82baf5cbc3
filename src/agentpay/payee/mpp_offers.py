"""
What a payee offers by MPP: challenges beside the offers of x402, and their problems.

Source: draft-httpauth-payment-00; "Request Schema" of draft-evm-charge-00 and of
draft-evm-session-00. A route that takes one transfer takes it by either protocol, and
one that takes vouchers of a channel takes those of a session, at one price.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agentpay.errors import ConfigurationError, MalformedMessage
from agentpay.evm.hashing import checked_address
from agentpay.payee.answers import request_of
from agentpay.payee.offers import PayeeSettings, payment_required
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Refusal
from agentpay.types import Address, Money, to_base_units
from agentpay.wire.headers import read_object
from agentpay.wire.mpp import binding
from agentpay.wire.mpp.binding import BindingSecrets
from agentpay.wire.mpp.challenge import (
    AUTHORIZATION,
    format_challenge,
    is_default_field,
)
from agentpay.wire.mpp.encoding import encode_base64url
from agentpay.wire.mpp.evm_charge import (
    BY_AUTHORIZATION,
    BY_HASH,
    BY_PERMIT2,
    BY_TRANSACTION,
    CHARGE,
    MEMO_MAX,
    METHOD,
    SPLITS_MAX,
)
from agentpay.wire.mpp.evm_write import charge_request
from agentpay.wire.mpp.problem import (
    PROBLEM_JSON,
    Books,
    ProblemKind,
    write_problem,
)
from agentpay.wire.x402 import (
    EXACT,
    PAYMENT_RESPONSE,
)

CREDENTIAL_TYPES = frozenset({BY_AUTHORIZATION, BY_PERMIT2, BY_TRANSACTION, BY_HASH})

UNKNOWN = ProblemKind.INTERNAL_ERROR
"""With a 503: what became of a payment is not known, so send it again as it is."""

_KINDS = {
    400: ProblemKind.MALFORMED_CREDENTIAL,
    409: ProblemKind.CREDENTIAL_REPLAYED,
}
NO_BODY = b"{}"
_WHOLE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What somebody else gets of every charge, in the same transaction."""

    recipient: str
    basis_points: int
    """Hundredths of a percent of the amount; cut off to whole base units."""
    memo: str = ""

    def __post_init__(self) -> None:
        """
        Raises:
            ConfigurationError: No address, no share, or a memo that is too long.
        """
        try:
            checked_address(self.recipient)
        except ValueError as error:
            raise ConfigurationError(f"a share's recipient: {error}") from error
        if not 0 < self.basis_points < _WHOLE or len(self.memo) > MEMO_MAX:
            raise ConfigurationError(
                f"a share is 1 to 9999 basis points with a memo of at most {MEMO_MAX}"
                f" characters, not {self.basis_points} and {len(self.memo)}"
            )

    def of(self, amount: int) -> int:
        """The share of an amount, in base units."""
        return amount * self.basis_points // _WHOLE


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
    credential_types: tuple[str, ...] = (BY_AUTHORIZATION,)
    """What pays a charge, the preferred first. `authorization` and `permit2` are signed
    for one challenge, and we pay their gas. `transaction` and `hash` are transfers of
    the payer's own, which name no challenge: who sees one first may present it."""
    hash_up_to: Money = "$1"
    """A higher price is not paid by `hash`: a stranger who watches the chain may
    present the hash of a transfer to us before its payer does."""
    shares: tuple[Share, ...] = ()
    """What others get of each charge. Only `permit2` can be split."""
    deposit_requests: int = 100
    """For how many requests a deposit is suggested to payers who open a session."""

    def __post_init__(self) -> None:
        """
        Raises:
            ConfigurationError: A secret is short, the realm or the header cannot be
                written, a bound is too low, or credentials or shares cannot be had.
        """
        if self.body_bytes_max < 0:
            raise ConfigurationError(f"body_bytes_max is {self.body_bytes_max}")
        if self.deposit_requests < 1:
            raise ConfigurationError(f"deposit_requests is {self.deposit_requests}")
        types = set(self.credential_types)
        if not types or not types <= CREDENTIAL_TYPES:
            raise ConfigurationError(
                f"credential_types are some of {sorted(CREDENTIAL_TYPES)}, not"
                f" {list(self.credential_types)}"
            )
        if self.shares and types != {BY_PERMIT2}:
            raise ConfigurationError("shares are paid by permit2, and nothing else")
        given = sum(share.basis_points for share in self.shares)
        if given >= _WHOLE or len(self.shares) > SPLITS_MAX:
            raise ConfigurationError(
                f"shares are at most {SPLITS_MAX} and leave something, not"
                f" {len(self.shares)} of {given} basis points"
            )
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

    body: bytes | None = None
    """None: not read, or longer than we read: it cannot be paid for by a charge."""
    preference: Sequence[str] = ()
    """The lines of its `Accept-Payment`."""
    keys: Sequence[str] = ()
    """The lines of its `Idempotency-Key`."""
    content: bool = True
    """Whether it wants anything: a `HEAD` only brings a voucher of a session."""
    alternatives: Sequence[Terms] = ()
    """What else costs at its path: a `HEAD` may be for any method there."""


def charge_offer(
    settings: PayeeSettings, mpp: MppTerms, terms: Terms
) -> binding.Terms | None:
    """One transfer for one request; None where the route takes none."""
    types = charge_types(settings, mpp, terms)
    if not types:
        return None
    request = charge_request(
        chain=settings.asset.chain,
        currency=settings.asset.address,
        recipient=settings.pay_to,
        amount=terms.maximum,
        credential_types=types,
        decimals=settings.asset.decimals,
        spender=settings.facilitator if BY_PERMIT2 in types else None,
        splits=[
            (_account(share), share.of(terms.maximum), share.memo)
            for share in _shares(mpp, terms)
        ],
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


def charge_types(
    settings: PayeeSettings, mpp: MppTerms, terms: Terms
) -> tuple[str, ...]:
    """What pays a route's charge; nothing where it takes no single transfer."""
    if EXACT not in terms.schemes:
        return ()
    ways = set(mpp.credential_types)
    if not settings.asset.eip3009:
        ways.discard(BY_AUTHORIZATION)
    if terms.maximum > to_base_units(mpp.hash_up_to, settings.asset.decimals):
        ways.discard(BY_HASH)
    return tuple(way for way in mpp.credential_types if way in ways)


def charge_parts(
    settings: PayeeSettings, mpp: MppTerms, terms: Terms
) -> list[tuple[Address, int]]:
    """Who gets what of a charge: the payee first, then the shares in their order."""
    given = [(_account(s), s.of(terms.maximum)) for s in _shares(mpp, terms)]
    rest = terms.maximum - sum(amount for _, amount in given)
    return [(settings.pay_to, rest), *given]


def _shares(mpp: MppTerms, terms: Terms) -> list[Share]:
    return [share for share in mpp.shares if share.of(terms.maximum)]


def _account(share: Share) -> Address:
    return Address(share.recipient)


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
    if refusal.body != NO_BODY and refusal.status == 402:
        return replace(refusal, headers=headers)
    if refusal.status == 402:
        kind, detail = ProblemKind.VERIFICATION_FAILED, error_of(refusal)
    else:
        kind, detail = _KINDS.get(refusal.status, UNKNOWN), _words_of(refusal)
    body = write_problem(kind, detail, status=refusal.status, challenge_id=challenge_id)
    return replace(refusal, headers=headers, body=body)


def _words_of(refusal: Refusal) -> str:
    words = read_object(refusal.body, name="a refusal")
    payment = f" (payment {words['payment']})" if "payment" in words else ""
    return f"{words.get('title')}: {words.get('detail')}{payment}"


def error_of(refusal: Refusal) -> str:
    """Why a 402 of x402 asks for money."""
    return str((refusal.required or {}).get("error", ""))
