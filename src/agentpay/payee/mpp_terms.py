"""
What a provider sets for payments by MPP, beside the prices of its routes.

Source: draft-httpauth-payment-00; draft-evm-charge-00, "Credential Types", "Splits".
"""

from dataclasses import dataclass, field

from agentpay.errors import ConfigurationError, MalformedMessage
from agentpay.evm.hashing import checked_address
from agentpay.types import Money
from agentpay.wire.mpp import binding
from agentpay.wire.mpp.binding import BindingSecrets
from agentpay.wire.mpp.challenge import (
    AUTHORIZATION,
    format_challenge,
    is_default_field,
)
from agentpay.wire.mpp.evm_charge import CHARGE, MEMO_MAX, METHOD, SPLITS_MAX

BY_AUTHORIZATION = "authorization"
BY_PERMIT2 = "permit2"
BY_TRANSACTION = "transaction"
BY_HASH = "hash"
CREDENTIAL_TYPES = frozenset({BY_AUTHORIZATION, BY_PERMIT2, BY_TRANSACTION, BY_HASH})

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
                written, the bound is negative, no request is suggested, or credentials
                or shares cannot be had.
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
