"""Choosing among the offers of both protocols: what is taken is what policy allows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay import Policy
from agentpay.errors import ConfigurationError, NoAcceptableOffer
from agentpay.evm.addresses import SESSION_ESCROW
from agentpay.evm.networks import LOCAL
from agentpay.payer.choice import Offered, acceptable, best
from agentpay.payer.mpp_offers import preference
from agentpay.payer.offer import Offer, Request
from agentpay.types import Address, Asset, to_base_units
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.digest import body_digest
from agentpay.wire.mpp.encoding import encode_object
from agentpay.wire.mpp.evm_charge import ChargeRequest
from agentpay.wire.mpp.evm_write import charge_request, session_request
from agentpay.wire.mpp.timestamps import format_time
from agentpay.wire.x402 import EIP3009, PERMIT2, PaymentRequired

NOW = 1_790_000_000
ASSET = LOCAL.usdc
PAYEE = Address("0x" + "a1" * 20)
OTHER = Address("0x" + "0e" * 20)
ALL = Policy(prefer=("batch-settlement", "session", "exact", "charge", "upto"))
BODY = b'{"question":6}'


def charge(**changes: Any) -> JsonObject:
    """What a good challenge of a charge asks for."""
    asked: dict[str, Any] = {
        "chain": ASSET.chain,
        "currency": ASSET.address,
        "recipient": PAYEE,
        "amount": 1000,
        "credential_types": ("authorization",),
        "decimals": ASSET.decimals,
    }
    return charge_request(**{**asked, **changes})


def session(**changes: Any) -> JsonObject:
    """What a good challenge of a session asks for."""
    asked: dict[str, Any] = {
        "chain": ASSET.chain,
        "currency": ASSET.address,
        "recipient": PAYEE,
        "escrow": SESSION_ESCROW,
        "unit_price": 1000,
        "unit_type": "request",
        "suggested_deposit": 10**6,
        "min_voucher_delta": 0,
        "fee_payer": True,
        "credential_types": ("authorization", "permit2"),
    }
    return session_request(**{**asked, **changes})


def challenge(asked: JsonObject, **changes: Any) -> Challenge:
    """A challenge that asks for this."""
    intent = "session" if "unitType" in asked else "charge"
    return Challenge(
        **{
            "id": "an id",
            "realm": "shop.example",
            "method": "evm",
            "intent": intent,
            "request": encode_object(asked),
            "expires": format_time(NOW + 300),
            **changes,
        }
    )


def exact(amount: int = 1000, **changes: Any) -> JsonObject:
    """An offer of x402."""
    offer: JsonObject = {
        "scheme": "exact",
        "network": f"eip155:{ASSET.chain}",
        "asset": str(ASSET.address),
        "amount": str(amount),
        "payTo": str(PAYEE),
        "maxTimeoutSeconds": 60,
        "extra": {"name": ASSET.name, "version": ASSET.version},
    }
    return {**offer, **changes}


def required(*offers: JsonObject) -> PaymentRequired:
    """A 402 of x402 with these."""
    return PaymentRequired.model_validate({"x402Version": 2, "accepts": list(offers)})


def read(
    *challenges: Challenge,
    x402: PaymentRequired | None = None,
    request: Request | None = None,
    policy: Policy = ALL,
    assets: tuple[Asset, ...] = (ASSET,),
) -> tuple[Offer, ...]:
    """What policy allows of a 402."""
    offered = Offered(
        required=x402, challenges=challenges, request=request or Request()
    )
    return acceptable(offered, assets=assets, policy=policy, now=NOW)


def test_the_offers_of_both_protocols_are_read() -> None:
    offers = read(challenge(charge()), challenge(session()), x402=required(exact()))

    assert [offer.scheme for offer in offers] == ["exact", "charge", "session"]
    assert {(o.amount, o.pay_to, o.asset, o.method) for o in offers} == {
        (1000, PAYEE, ASSET, EIP3009)
    }


REFUSED: dict[str, tuple[Challenge, str]] = {
    "c2 another chain": (challenge(charge(chain=1)), "trust asset"),
    "c2 t11 another token": (challenge(charge(currency=OTHER)), "trust asset"),
    "c2 a session in another token": (
        challenge(session(currency=OTHER)),
        "trust asset",
    ),
    "c2 paid to nobody": (
        challenge(charge(recipient=Address("0x" + "00" * 20))),
        "to nobody",
    ),
    "c4 nothing": (challenge(charge(amount=0)), "amount is 0"),
    "c4 an absurd amount": (challenge(charge(amount=2**128)), "amount is"),
    "c4 other decimals": (challenge(charge(decimals=18)), "18 decimals"),
    "c10 over": (challenge(charge(), expires=format_time(NOW)), "expired"),
    "c12 another escrow": (challenge(session(escrow=OTHER)), "trust escrow"),
    "a split": (
        challenge(
            {
                **charge(),
                "methodDetails": {
                    "chainId": ASSET.chain,
                    "credentialTypes": ["hash", "authorization"],
                    "splits": [{"recipient": str(OTHER), "amount": "1"}],
                },
            }
        ),
        "split",
    ),
    "a permit2 of nobody": (
        challenge(charge(credential_types=("permit2",))),
        "who sends a permit2",
    ),
    "our own transaction": (
        challenge(charge(credential_types=("hash", "transaction"))),
        "paid by",
    ),
    "no types said": (
        challenge({**charge(), "methodDetails": {"chainId": ASSET.chain}}),
        "paid by",
    ),
    "funded by our own transaction": (
        challenge(session(credential_types=("hash",))),
        "funded by",
    ),
    "c14 steps above what is signed ahead": (
        challenge(session(min_voucher_delta=250_001)),
        "signs ahead",
    ),
    "c14 a price above what is signed ahead": (
        challenge(session(unit_price=250_001)),
        "signs ahead",
    ),
    "another method": (challenge(charge(), method="tempo"), "not a way"),
    "another intent": (challenge(charge(), intent="subscription"), "not a way"),
    "not a request": (challenge({"amount": "1"}), "request: "),
    "an amount with a point": (challenge({**charge(), "amount": "0.001"}), "amount"),
    "an amount as a number": (challenge({**charge(), "amount": 1000}), "amount"),
    "a chain as text": (
        challenge({**charge(), "methodDetails": {"chainId": "31337"}}),
        "chain",
    ),
    "another body": (
        challenge(charge(), digest=body_digest(b"other")),
        "another body",
    ),
    "a digest that nobody knows": (
        challenge(charge(), digest="md5=abc"),
        "another body",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_c2_c4_c10_c12_c14_t11_a_hostile_challenge_is_passed_over(name: str) -> None:
    spoilt, why = REFUSED[name]

    with pytest.raises(NoAcceptableOffer, match=why):
        read(spoilt)
    assert len(read(spoilt, challenge(charge()))) == 1


def test_a_challenge_that_never_ends_has_our_own_bound() -> None:
    (offer,) = read(challenge(charge(), expires=None))

    assert offer.mpp is not None
    assert offer.mpp.expires_at == NOW + ALL.authorization_seconds_max


def test_a_description_is_not_read() -> None:
    said = challenge({**charge(), "description": "free!"}, description="$0.00 only")
    (offer,) = read(said)

    assert offer.amount == 1000


def test_escrows_of_a_policy_are_trusted() -> None:
    policy = replace(ALL, escrows=(OTHER,))

    assert len(read(challenge(session(escrow=OTHER)), policy=policy)) == 1


@pytest.mark.parametrize(
    ("types", "method"),
    [
        (("permit2",), PERMIT2),
        (("hash", "permit2"), PERMIT2),
        (("permit2", "authorization"), EIP3009),
    ],
)
def test_a_session_is_filled_by_a_signature(
    types: tuple[str, ...], method: str
) -> None:
    (offer,) = read(challenge(session(credential_types=types)))

    assert offer.method == method


@pytest.mark.parametrize(
    ("types", "splits", "method"),
    [
        (("permit2",), (), PERMIT2),
        (("hash", "permit2"), (), PERMIT2),
        (("permit2", "authorization"), (), EIP3009),
        (("permit2", "authorization"), ((OTHER, 1, ""),), PERMIT2),
    ],
)
def test_a_charge_is_paid_by_what_needs_least_and_can_do_it(
    types: tuple[str, ...], splits: Sequence[tuple[Address, int, str]], method: str
) -> None:
    asked = charge(credential_types=types, spender=OTHER, splits=splits)
    (offer,) = read(challenge(asked))
    by_permit = replace(ASSET, eip3009=False)
    others = read(challenge(asked), assets=(by_permit,))

    assert (offer.method, offer.amount) == (method, 1000)
    assert [other.method for other in others] == [PERMIT2]


@pytest.mark.parametrize(
    ("types", "method"),
    [
        (("hash", "transaction"), "hash"),
        (("transaction", "hash"), "transaction"),
        (("hash", "permit2"), PERMIT2),
        (("hash", "authorization"), EIP3009),
    ],
)
def test_gas_is_paid_for_a_charge_that_takes_nothing_else(
    types: tuple[str, ...], method: str
) -> None:
    asked = charge(credential_types=types, spender=OTHER)
    (offer,) = read(challenge(asked), policy=replace(ALL, pay_gas=True))

    assert offer.method == method


def test_gas_is_paid_only_where_no_other_offer_is_there() -> None:
    paid = replace(ALL, pay_gas=True, prefer=("charge", "exact"))
    offers = read(
        challenge(charge(credential_types=("hash",))),
        x402=required(exact()),
        policy=paid,
    )

    assert [offer.method for offer in offers] == [EIP3009, "hash"]
    assert best(offers, opened=(), policy=paid).method == EIP3009


def test_the_body_of_its_request_is_paid_for_in_either_form_of_the_digest() -> None:
    bare = body_digest(BODY)
    by_draft = bare.replace("sha-256=", "sha-256=:") + ":"
    for digest in (bare, by_draft):
        assert read(
            challenge(charge(), digest=digest), request=Request(body=BODY, fields=())
        )


def test_no_field_that_the_request_has_is_overwritten() -> None:
    ours = Request(fields=frozenset({"authorization", "x-api-key"}))

    for header in (None, "Authorization", "X-Api-Key"):
        with pytest.raises(NoAcceptableOffer, match="which the request has"):
            read(challenge(charge(), header=header), request=ours)
    assert read(challenge(charge(), header="Payment-Authorization"), request=ours)


KINDS = {
    "exact": (required(exact()), None),
    "charge": (None, challenge(charge())),
    "session": (None, challenge(session())),
}


@pytest.mark.parametrize("liked", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_what_policy_likes_best_is_paid(liked: str, other: str) -> None:
    policy = replace(ALL, prefer=(liked, *(kind for kind in KINDS if kind != liked)))
    halves = [KINDS[kind] for kind in {liked, other}]
    offers = read(
        *(mpp for _, mpp in halves if mpp),
        x402=next((x402 for x402, _ in halves if x402), None),
        policy=policy,
    )

    assert best(offers, opened=(), policy=policy).scheme == liked


def test_the_cheapest_is_paid_where_policy_says_so() -> None:
    policy = replace(ALL, cheapest=True)
    offers = read(challenge(charge(amount=999)), x402=required(exact()), policy=policy)

    assert best(offers, opened=(), policy=policy).scheme == "charge"
    assert best(offers, opened=(), policy=ALL).scheme == "exact"


def test_where_a_channel_is_open_its_money_is_used_first() -> None:
    policy = replace(ALL, prefer=("exact", "session"))
    offers = read(challenge(session()), x402=required(exact(amount=1)), policy=policy)
    opened = [offer for offer in offers if offer.scheme == "session"]

    assert best(offers, opened=opened, policy=policy).scheme == "session"
    assert best(offers, opened=(), policy=policy).scheme == "exact"


@pytest.mark.parametrize(
    ("prefer", "said"),
    [
        (("session", "exact", "charge"), "evm/session, evm/charge;q=0.9"),
        (("charge", "session"), "evm/charge, evm/session;q=0.9"),
        (("exact", "charge"), "evm/charge"),
        (("exact",), ""),
    ],
)
def test_a_preference_has_the_order_of_the_policy(
    prefer: tuple[str, ...], said: str
) -> None:
    assert preference(Policy(prefer=prefer)) == said


@pytest.mark.parametrize("prefer", [(), ("sessions",), "exact", ("exact", "tempo")])
def test_a_policy_names_what_can_be_paid(prefer: Any) -> None:
    with pytest.raises(ConfigurationError, match="prefer"):
        Policy(prefer=prefer).check(6)


# What holds of any 402.

addresses = st.sampled_from([ASSET.address, PAYEE, OTHER, Address("0x" + "00" * 20)])
amounts = st.one_of(st.integers(0, 2000), st.integers(0, 2**256 - 1))
types = st.lists(
    st.sampled_from(["authorization", "permit2", "hash", "transaction", "later"]),
    max_size=4,
)
chains = st.sampled_from([ASSET.chain, 1, 8453])
charges = st.builds(
    charge,
    chain=chains,
    currency=addresses,
    recipient=addresses,
    amount=amounts,
    credential_types=types,
    decimals=st.sampled_from([6, 18]),
    spender=st.one_of(st.none(), addresses),
    splits=st.lists(
        st.tuples(addresses, st.integers(0, 1500), st.just("")), max_size=2
    ),
)
sessions = st.builds(
    session,
    chain=chains,
    currency=addresses,
    recipient=addresses,
    escrow=st.sampled_from([SESSION_ESCROW, OTHER]),
    unit_price=amounts,
    min_voucher_delta=st.integers(0, 10**6),
    fee_payer=st.booleans(),
    credential_types=types,
)
anything: st.SearchStrategy[JsonObject] = st.dictionaries(
    st.sampled_from(["amount", "currency", "recipient", "methodDetails", "unitType"]),
    st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=5), st.just({})),
)
challenges = st.builds(
    challenge,
    st.one_of(charges, sessions, anything),
    method=st.sampled_from(["evm", "evm", "evm", "tempo"]),
    expires=st.one_of(st.none(), st.integers(NOW - 2, NOW + 10**6).map(format_time)),
    digest=st.sampled_from([None, body_digest(BODY), body_digest(b"")]),
    header=st.sampled_from([None, "Authorization", "Payment-Authorization"]),
)
requests = st.builds(
    Request,
    body=st.sampled_from([b"", BODY]),
    fields=st.sampled_from([frozenset[str](), frozenset({"authorization"})]),
)


@given(st.lists(challenges, max_size=5), requests, st.booleans(), st.booleans())
def test_nothing_is_taken_that_policy_does_not_allow(
    offered: list[Challenge], request: Request, cheapest: bool, pay_gas: bool
) -> None:
    policy = replace(ALL, cheapest=cheapest, pay_gas=pay_gas)
    try:
        offers = read(*offered, request=request, policy=policy)
    except NoAcceptableOffer:
        return
    for offer in offers:
        assert offer.mpp is not None
        assert offer.asset == ASSET
        assert 0 < offer.amount < 2**128
        assert offer.pay_to != Address("0x" + "00" * 20)
        assert offer.mpp.expires_at > NOW
        assert not offer.mpp.misfit(request)
        assert offer.words["id"] == offer.mpp.challenge.id
        asked = offer.mpp.request
        if isinstance(asked, ChargeRequest) and offer.method == PERMIT2:
            nobody = (None, Address("0x" + "00" * 20))
            assert asked.method_details.spender not in nobody
            assert all(part.recipient not in nobody for part in asked.splits)
            assert sum(part.amount for part in asked.splits) < offer.amount
        elif isinstance(asked, ChargeRequest):
            assert not asked.splits
            assert offer.method == EIP3009 or pay_gas
        if offer.scheme == "session":
            headroom = to_base_units(policy.headroom, ASSET.decimals)
            assert offer.amount <= headroom
    chosen = best(offers, opened=(), policy=policy)
    again = best(offers[::-1], opened=(), policy=policy)

    assert chosen in offers
    assert (chosen.scheme, chosen.amount, chosen.method) == (
        again.scheme,
        again.amount,
        again.method,
    )
    if cheapest and chosen.method == EIP3009:
        alike = [offer for offer in offers if offer.method == EIP3009]
        assert chosen.amount == min(offer.amount for offer in alike)


def upfront(amount: int = 1000) -> JsonObject:
    """An offer that is paid before its request runs."""
    extra = {"name": ASSET.name, "version": ASSET.version, "paymentFlow": "upfront"}
    return exact(amount, extra=extra)


@pytest.mark.parametrize("cheapest", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_who_may_pay_for_an_answer_does_not_pay_before_it(
    cheapest: bool, swapped: bool
) -> None:
    offers = [upfront(), exact()][:: -1 if swapped else 1]
    policy = replace(ALL, cheapest=cheapest)
    chosen = best(read(x402=required(*offers), policy=policy), opened=(), policy=policy)
    (only,) = read(x402=required(upfront()))

    assert chosen.words == exact()
    assert best([only], opened=(), policy=policy).words == upfront()


def test_the_cheapest_may_be_paid_before_it() -> None:
    offers = read(x402=required(exact(1001), upfront(1000)))
    cheapest = replace(ALL, cheapest=True)

    assert best(offers, opened=(), policy=ALL).amount == 1001
    assert best(offers, opened=(), policy=cheapest).amount == 1000
