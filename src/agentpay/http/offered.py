"""
What a 402 offers, in either protocol, and whether it is for where we went.

One that can be read in one protocol is taken in that one, whatever is wrong with the
other.
"""

from dataclasses import replace

import httpx

from agentpay.errors import MalformedMessage
from agentpay.http.first_version import first_of
from agentpay.http.places import check_realm, check_resource, check_tls
from agentpay.http.receipts import Receipts
from agentpay.payer.choice import Offered
from agentpay.payer.offer import Offer, Request
from agentpay.payer.payer import Payer
from agentpay.payer.payment import Target
from agentpay.wire.mpp.challenge import (
    WWW_AUTHENTICATE,
    Challenge,
    has_challenge,
    parse_challenges,
)
from agentpay.wire.x402 import (
    PAYMENT_REQUIRED,
    PaymentRequired,
    parse_payment_required,
)


def costs(response: httpx.Response) -> bool:
    """Whether it is a 402 that offers something, in whatever protocol and version."""
    return response.status_code == 402 and (
        PAYMENT_REQUIRED in response.headers
        or first_of(response) is not None
        or has_challenge(_lines(response))
    )


def request_of(request: httpx.Request) -> Request:
    """What an offer must fit of a request whose body was read."""
    fields = frozenset(name.lower() for name in request.headers)
    return Request(body=request.content, fields=fields)


def read_offered(
    response: httpx.Response, request: httpx.Request, *, same_resource: bool
) -> Offered:
    """
    Everything that a 402 offers to the request that it answers.

    Raises:
        MalformedMessage: Nothing in it can be read.
        OfferUntrusted: It is for another resource.
    """
    faults: list[MalformedMessage] = []
    required: PaymentRequired | None = None
    challenges: tuple[Challenge, ...] = ()
    try:
        required = _required(response)
    except MalformedMessage as error:
        faults.append(error)
    try:
        challenges = parse_challenges(_lines(response))
    except MalformedMessage as error:
        faults.append(error)
    if required is None and not challenges and faults:
        raise faults[0]
    if required is not None and required.resource is not None and same_resource:
        check_resource(required.resource.url, request.url)
    refused = [str(fault) for fault in faults]
    fitting: list[Challenge] = []
    for challenge in challenges:
        try:
            _check_place(challenge, request.url, same_resource=same_resource)
        except MalformedMessage as error:
            refused.append(f"{challenge.method}/{challenge.intent}: {error}")
        else:
            fitting.append(challenge)
    return Offered(
        required=required,
        challenges=tuple(fitting),
        request=request_of(request),
        refused=tuple(refused),
    )


async def choose(
    response: httpx.Response, target: Target, *, payer: Payer, receipts: Receipts
) -> Offer:
    """
    The offer of a 402 to pay its request by.

    Raises:
        MalformedMessage, OfferUntrusted: As of `read_offered`.
        NoAcceptableOffer: There is none.
    """
    offered = _read(response, payer)
    offer = replace(await payer.choose(offered, target), url=target.url)
    if offer.mpp is not None or offered.required is None:
        return offer
    first = first_of(response)
    if first is not None:
        offer = replace(offer, first_network=first.name_of(offer.words))
    return receipts.with_signature(offered.required, offer, response.request.url)


def allowed(response: httpx.Response, payer: Payer) -> tuple[Offer, ...]:
    """
    All that a 402 may be paid by.

    Raises:
        MalformedMessage, OfferUntrusted: As of `read_offered`.
        NoAcceptableOffer: There is nothing.
    """
    return payer.allowed(_read(response, payer))


def _read(response: httpx.Response, payer: Payer) -> Offered:
    same = payer.policy.same_resource
    return read_offered(response, response.request, same_resource=same)


def _required(response: httpx.Response) -> PaymentRequired | None:
    first = first_of(response)
    if first is not None:
        return first.required
    header = response.headers.get(PAYMENT_REQUIRED)
    return parse_payment_required(header) if header is not None else None


def _lines(response: httpx.Response) -> list[str]:
    return response.headers.get_list(WWW_AUTHENTICATE)


def _check_place(
    challenge: Challenge, requested: httpx.URL, *, same_resource: bool
) -> None:
    check_tls(requested)
    if same_resource:
        check_realm(challenge.realm, requested)
