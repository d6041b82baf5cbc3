"""
Money that a payer signed for one session: it opens it, or fills it up.

One value for each way to sign. Whoever holds one may put it on the chain, once, and
into that session alone: its nonce or its witness is made of all that it is for.
Source: draft-evm-session-00, "Relayed / Gasless Operations Profile".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agentpay.evm import eip3009_abi as tokens
from agentpay.evm import permit2_abi
from agentpay.evm import session_escrow as session
from agentpay.evm import session_escrow_abi as escrows
from agentpay.evm.calls import Call, Log
from agentpay.evm.eip3009 import Authorization, receive_digest
from agentpay.evm.permit2 import Permitted
from agentpay.evm.session_escrow import SessionConfig
from agentpay.evm.session_escrow_events import ChannelOpened, ToppedUp, events_in
from agentpay.types import Address, Asset, Hash32


class SessionDeposit(Protocol):
    """Money of `payer`, signed for the session of `config`."""

    @property
    def config(self) -> SessionConfig: ...

    @property
    def asset(self) -> Asset: ...

    @property
    def payer(self) -> Address:
        """Whose money it is: anybody's, where it fills a session up."""
        ...

    @property
    def amount(self) -> int: ...

    @property
    def opens(self) -> bool:
        """Whether it opens the session, and does not fill it up."""
        ...

    @property
    def signature(self) -> bytes: ...

    def digest(self) -> bytes:
        """What the payer signed."""
        ...

    def call(self) -> Call:
        """Put it on the chain."""
        ...

    def used_call(self) -> Call:
        """Ask the chain whether it was used or cancelled; see `is_used`."""
        ...

    def is_used(self, answer: bytes) -> bool:
        """
        Raises:
            ValueError: Not an answer to `used_call`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSessionDeposit:
    """By EIP-3009. Implements `SessionDeposit`."""

    config: SessionConfig
    asset: Asset
    payer: Address
    amount: int
    valid_after: int
    valid_before: int
    signature: bytes
    top_up_salt: Hash32 | None = None
    """None opens the session, as its payer."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def opens(self) -> bool:
        return self.top_up_salt is None

    @property
    def authorization(self) -> Authorization:
        """What the token is shown; the nonce ties it to the session."""
        return Authorization(
            payer=self.payer,
            to=self.config.escrow.contract,
            value=self.amount,
            valid_after=self.valid_after,
            valid_before=self.valid_before,
            nonce=self._nonce(),
        )

    def _nonce(self) -> Hash32:
        if self.top_up_salt is None:
            return session.open_nonce(self.config.terms)
        return session.top_up_nonce(
            self.config.channel,
            additional_deposit=self.amount,
            payer=self.payer,
            salt=self.top_up_salt,
        )

    def digest(self) -> bytes:
        """See `SessionDeposit.digest`."""
        return receive_digest(self.authorization, self.asset)

    def call(self) -> Call:
        """See `SessionDeposit.call`."""
        config = self.config
        if self.top_up_salt is None:
            return escrows.open_with_authorization_call(
                config.terms, self.authorization, self.signature, config.escrow
            )
        return escrows.top_up_with_authorization_call(
            config.channel,
            self.authorization,
            salt=self.top_up_salt,
            signature=self.signature,
            escrow=config.escrow,
        )

    def used_call(self) -> Call:
        """See `SessionDeposit.used_call`."""
        return tokens.authorization_used_call(
            self.asset.address, self.payer, self._nonce()
        )

    def is_used(self, answer: bytes) -> bool:
        """See `SessionDeposit.is_used`."""
        return tokens.decode_uint(answer) != 0

    def is_shown_by(self, logs: Sequence[Log]) -> bool:
        """Whether a transaction used this very authorization."""
        topics = (
            tokens.AUTHORIZATION_USED,
            Hash32.of(bytes(12) + self.payer.to_bytes()),
            self._nonce(),
        )
        return any(
            (log.address, log.topics) == (self.asset.address, topics) for log in logs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit2SessionDeposit:
    """By Permit2, whose spender is the escrow. Implements `SessionDeposit`."""

    config: SessionConfig
    asset: Asset
    payer: Address
    amount: int
    nonce: int
    deadline: int
    signature: bytes
    opens: bool
    """Or it fills up."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def permitted(self) -> Permitted:
        """What Permit2 is shown; the witness ties it to the session."""
        return Permitted(
            payer=self.payer,
            token=self.asset.address,
            amount=self.amount,
            nonce=self.nonce,
            deadline=self.deadline,
        )

    def digest(self) -> bytes:
        """See `SessionDeposit.digest`."""
        config = self.config
        if self.opens:
            return session.open_permit_digest(
                self.permitted, config.terms, config.escrow
            )
        return session.top_up_permit_digest(
            self.permitted, config.channel, config.escrow
        )

    def call(self) -> Call:
        """See `SessionDeposit.call`."""
        config = self.config
        if self.opens:
            return escrows.open_with_permit2_call(
                config.terms, self.permitted, self.signature, config.escrow
            )
        return escrows.top_up_with_permit2_call(
            config.channel, self.permitted, self.signature, config.escrow
        )

    def used_call(self) -> Call:
        """See `SessionDeposit.used_call`."""
        return permit2_abi.nonces_call(self.payer, self.nonce)

    def is_used(self, answer: bytes) -> bool:
        """See `SessionDeposit.is_used`."""
        return permit2_abi.is_nonce_used(answer, self.nonce)


def deposited_in(
    config: SessionConfig, logs: Sequence[Log], *, opens: bool
) -> list[int]:
    """What some logs say was put into a session, when it was opened or later."""
    amounts: list[int] = []
    for event in events_in(logs, config.escrow):
        match event:
            case ChannelOpened() if opens and event.terms == config.terms:
                amounts.append(event.deposit)
            case ToppedUp() if not opens and event.channel == config.channel:
                amounts.append(event.added)
            case _:
                pass
    return amounts


def _check(deposit: SessionDeposit) -> None:
    """
    Raises:
        ValueError: It is in another token, or opens somebody else's session.
    """
    terms = deposit.config.terms
    place = (deposit.config.escrow.chain, terms.token)
    if (deposit.asset.chain, deposit.asset.address) != place:
        raise ValueError(f"{deposit.asset.address} is not the session's {terms.token}")
    if deposit.opens and deposit.payer != terms.payer:
        raise ValueError(f"{deposit.payer} opens a session of {terms.payer}")
