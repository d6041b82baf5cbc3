"""
What a challenge of MPP's `evm/session` means to a payer, beside its price.

Source: draft-evm-session-00, "Request Schema". Its `amount` is the price of a unit, and
no draft says what a request may cost: our own payees do, and of others a unit that is
a request is one. What is sold by any other unit is paid for as it goes.
"""

from dataclasses import dataclass

from agentpay.errors import InvariantViolated
from agentpay.evm.session_escrow import Escrow
from agentpay.payer.offer import Offer
from agentpay.payer.policy import Policy
from agentpay.types import UINT128_MAX, parse_amount, to_base_units
from agentpay.wire.mpp.evm_session import SessionRequest
from agentpay.wire.mpp.evm_session_terms import escrow_of
from agentpay.wire.parallel import ParallelTerms, read_info

PER_REQUEST = "request"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOffer:
    """How the sessions of a challenge work."""

    escrow: Escrow
    parallel: ParallelTerms | None
    """None: one request at a time, by vouchers that only rise."""
    rise: int
    """The least that they rise by."""
    whole: bool
    """All that is signed may be charged: nobody says what a request costs at most."""


def session_of(offer: Offer) -> SessionOffer:
    """How the session of an offer works."""
    asked = offer.mpp.request if offer.mpp is not None else None
    if not isinstance(asked, SessionRequest):
        raise InvariantViolated(f"an offer of {offer.scheme} has no session")
    parallel = parallel_in(asked)
    return SessionOffer(
        escrow=escrow_of(asked),
        parallel=parallel,
        rise=asked.method_details.min_voucher_delta,
        whole=parallel is None and asked.unit_type != PER_REQUEST,
    )


def parallel_in(asked: SessionRequest) -> ParallelTerms | None:
    """Vouchers of requests at once come in any order, so none has to rise."""
    said = asked.method_details.parallel
    if not isinstance(said, dict) or asked.method_details.min_voucher_delta:
        return None
    return read_info(said)


def price_in(asked: SessionRequest, policy: Policy, decimals: int) -> int:
    """
    What a request is taken to cost at most, when it begins.

    Raises:
        ValueError: What it says of that is no amount.
    """
    said = asked.method_details.parallel
    if parallel_in(asked) is not None and isinstance(said, dict):
        most = said.get("maximum")
        if most is None:
            return asked.amount
        return parse_amount(str(most), maximum=UINT128_MAX)
    if asked.unit_type == PER_REQUEST:
        return asked.amount
    return max(asked.amount, to_base_units(policy.ahead, decimals))
