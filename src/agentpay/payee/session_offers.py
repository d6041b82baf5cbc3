"""
What a payee offers as an MPP session: vouchers for many requests, at x402's price.

Source: draft-evm-session-00, "Request Schema".
"""

from dataclasses import replace

from agentpay.payee.answers import request_of
from agentpay.payee.mpp_offers import MppTerms
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.pricing import Terms
from agentpay.wire import parallel
from agentpay.wire.mpp import binding
from agentpay.wire.mpp.encoding import encode_base64url
from agentpay.wire.mpp.evm_charge import (
    BY_AUTHORIZATION,
    BY_HASH,
    BY_PERMIT2,
    METHOD,
)
from agentpay.wire.mpp.evm_session import SESSION
from agentpay.wire.mpp.evm_write import session_request
from agentpay.wire.x402 import BATCH_SETTLEMENT, EIP3009, PERMIT2


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
