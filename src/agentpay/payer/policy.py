"""
What an agent may spend and whom it trusts: decided once, outside of any message.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from agentpay.core.budget import Limits
from agentpay.errors import ConfigurationError
from agentpay.types import MONEY_DECIMALS, Address, Money, to_base_units
from agentpay.wire.mpp.evm_charge import CHARGE
from agentpay.wire.mpp.evm_session import SESSION
from agentpay.wire.x402 import BATCH_SETTLEMENT, EXACT, UPTO

KINDS: Final = (BATCH_SETTLEMENT, SESSION, EXACT, CHARGE, UPTO)
"""All that an agent can pay by: schemes of x402 and intents of MPP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """
    The most an agent may be exposed to: spent, deposited, or signed and not yet final.

    Written as `"$5"`; an `int` is in base units of the agent's token.
    """

    total: Money
    per_request: Money
    per_host: Money | None = None
    """The same as the total, if not given."""

    def limits(self, decimals: int) -> Limits:
        """
        The limits in 10^-18 of the currency.

        Raises:
            ConfigurationError: An amount cannot be read.
        """
        per_host = self.total if self.per_host is None else self.per_host
        return Limits(
            total=_scaled(self.total, decimals, "total"),
            per_host=_scaled(per_host, decimals, "per_host"),
            per_request=_scaled(self.per_request, decimals, "per_request"),
        )


def _scaled(money: Money, decimals: int, name: str) -> int:
    try:
        if isinstance(money, str):
            return to_base_units(money, MONEY_DECIMALS)
        return scale(to_base_units(money, decimals), decimals)
    except ValueError as error:
        raise ConfigurationError(f"budget, {name}: {error}") from error


def scale(amount: int, decimals: int) -> int:
    """Base units of a token in 10^-18 of its currency."""
    return amount * int(10 ** (MONEY_DECIMALS - decimals))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How an agent pays, within its budget."""

    prefer: tuple[str, ...] = (BATCH_SETTLEMENT, SESSION, EXACT, CHARGE, UPTO)
    """
    What we pay by, the best first: schemes of x402 (`batch-settlement`, `exact`,
    `upto`) and intents of MPP (`session`, `charge`).
    """
    cheapest: bool = False
    """
    Take the cheapest offer, and what is liked best of those that cost the same: after
    what a channel is open for already, and before what needs an approval or our gas.
    """
    json_nonces: Collection[str] = ()
    """Hosts whose charges (MPP) need pympp's form of the nonce, and not the draft's."""
    pay_gas: bool = False
    """
    Pay charges (MPP) by the wallet's own transactions where nothing else is taken.

    They cost the wallet gas. They name no challenge, so a payee may take one and serve
    somebody else for it, and they never expire.
    """
    escrows: Collection[str] = ()
    """Contracts whose sessions (MPP) we trust, beside this library's own."""
    deposit: Money = "$1"
    """What a channel is opened with, and topped up by; less if the budget has less."""
    headroom: Money = "$0.25"
    """The most signed beyond what was spent: what a dishonest payee could take."""
    ahead: Money = "$0.02"
    """What is signed ahead, of the headroom, for what is sold by the unit (MPP)."""
    low_water: Money = "$0.1"
    """A channel with less left than this is topped up by the next request."""
    lanes_max: int = 4
    """Channels at once to a payee that serves one request at a time on each."""
    authorization_seconds_max: int = 600
    """How long a signed transfer may stay valid, whatever the payee asks for."""
    withdraw_delay_max: int = 7 * 24 * 3600
    """How long our own exit from a channel may take."""
    give_up_seconds: float = 60.0
    """How long to resend a request whose outcome is unknown before saying so."""
    price_rise_max: int | None = 10
    """
    A route may come to cost so many times what it first cost this agent; None is any.

    Prices that follow the size of a request vary; a price that creeps up is stopped an
    order of magnitude above what was agreed, also where the budget has room.
    """
    quarantine_after: int | None = 3
    """A host is not paid after so many payments in a row for nothing; None: always."""
    quarantine_seconds: int = 600
    """For how long, after the last of them. Lapses further apart are not in a row."""
    withdraw_when_cheated: bool = True
    """
    Leave a channel whose payee contradicted our signatures, if a key has gas; a sweep
    does so where that failed or was cut short.
    """
    withdraw_when_silent_seconds: float | None = None
    """
    Leave a payee that has not answered for so long, and finish once the delay is over;
    None: never by itself. A key of ours needs gas for both.
    """
    same_resource: bool = True
    """Refuse a 402 whose `resource.url` is for another resource than the requested."""
    pay_redirected: bool = False
    """Pay at another origin, too, that a redirect led to."""
    sign_in: bool = True
    """Come back to what was paid for by signing, where a 402 offers it (SIWE)."""
    v1: bool = False
    """Pay servers that speak x402's first version too, by `exact`."""
    attestors: Mapping[str, Collection[str]] = field(
        default_factory=dict[str, Collection[str]]
    )
    """By host, the keys that its payees are known to sign receipts with, beside the
    account that is paid."""
    body_bytes_max: int = 32 * 2**20
    """The largest body of a request: it is kept, to be sent with a payment or again."""
    pay_again_max: int = 2
    """How often a request is paid anew after its payment finally bought nothing."""

    def check(self, decimals: int) -> None:
        """
        Raises:
            ConfigurationError: An amount, an address or a way of paying cannot be
                read, or an amount is finer than the token.
        """
        unknown = [kind for kind in self.prefer if kind not in KINDS]
        if unknown or not self.prefer:
            raise ConfigurationError(
                f"policy, prefer: some of {', '.join(KINDS)}, and not {unknown}"
            )
        for name in ("deposit", "headroom", "ahead", "low_water"):
            try:
                to_base_units(getattr(self, name), decimals)
            except ValueError as error:
                raise ConfigurationError(f"policy, {name}: {error}") from error
        keys = chain.from_iterable(self.attestors.values())
        for name, addresses in {"attestors": keys, "escrows": self.escrows}.items():
            try:
                for address in addresses:
                    Address(address)
            except ValueError as error:
                raise ConfigurationError(f"policy, {name}: {error}") from error
        silent = self.withdraw_when_silent_seconds
        if silent is not None and silent <= 0:
            raise ConfigurationError(
                f"policy, withdraw_when_silent_seconds: above 0, not {silent}"
            )
        for name in ("price_rise_max", "quarantine_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"policy, {name}: at least 1, not {value}")
