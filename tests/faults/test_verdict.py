"""The judge of histories is shown made-up ones: it finds what it is there to find."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.http.paywall import Receive, Scope, Send
from tests.http.world import answer

from .charges import Charge, Payment, payments
from .days import Strike
from .money import Money
from .served import Door, Served, made_by, read_served
from .shopper import Note
from .verdict import Facts, given_away, judge, made_again, recovery

FUNDS, PRICE = 100_000, 1000


def note(number: int, outcome: str, *, at: float, charged: int = 0) -> Note:
    return Note(number=number, outcome=outcome, charged=charged, at=at)


def charge(amount: int, *requests: str, by: str = "channel", nth: int = 1) -> Charge:
    payment = Payment(by=by, cumulative=nth * PRICE)
    return Charge(payment=payment, requests=frozenset(requests), amount=amount)


def moved(amount: int) -> Money:
    return Money(
        transferred=0,
        deposited=5 * amount,
        returned=4 * amount,
        claimed=amount,
        escrowed=0,
        left=FUNDS - amount,
    )


def paying(facts: Facts, *charges: Charge) -> Facts:
    """The same with other charges, and the chain and the agent's books saying so."""
    amount = sum(c.amount for c in charges)
    return replace(facts, charges=charges, money=moved(amount), booked=amount)


# `a` and `d` were answered, `b` was under way when its agent died, `c` was refused.
ENDS = {"a": "paid", "b": "begun", "c": "over_budget", "d": "paid"}
A, D = charge(PRICE, "a", nth=1), charge(PRICE, "d", nth=3)
GOOD = paying(
    Facts(
        prices=dict.fromkeys(ENDS, PRICE),
        notes={
            name: [note(n, "begun", at=n), note(n, outcome, at=n + 0.5)]
            for n, (name, outcome) in enumerate(ENDS.items())
        },
        charges=(),
        served=[
            Served(request="a", life="1", at=0.4, ended=0.45, status=200),
            Served(request="d", life="1", at=3.4, ended=3.45, status=200),
        ],
        money=moved(0),
        funds=FUNDS,
        booked=0,
        strikes=[Strike(what="agent killed", moments=[1.2], back=1.4)],
    ),
    *(A, D),
)


def blamed(facts: Facts) -> dict[str, int]:
    """For what, and with how much in all."""
    found: dict[str, int] = {}
    for blame in judge(facts):
        found[blame.what] = found.get(blame.what, 0) + blame.amount
    return found


def test_a_good_history_is_blamed_for_nothing() -> None:
    assert judge(GOOD) == []
    assert judge(paying(GOOD, A, D, charge(PRICE, "b", nth=2))) == []


def test_a_doubled_charge_does_not_hide_behind_an_unpaid_request() -> None:
    again = charge(PRICE, "a", nth=2)
    assert blamed(paying(GOOD, A, again, D)) == {"doubled": PRICE}
    assert blamed(paying(GOOD, replace(A, amount=2 * PRICE), D)) == {"doubled": PRICE}


@given(
    ends=st.lists(st.sampled_from(["paid", "lost", "begun", "refused"]), min_size=1),
    which=st.integers(min_value=0),
    more=st.integers(1, 3 * PRICE),
)
def test_no_request_costs_more_whatever_the_others_cost(
    ends: list[str], which: int, more: int
) -> None:
    costs = {"paid": PRICE, "lost": 700, "begun": 0, "refused": 0}
    names = [f"r{n}" for n in range(len(ends))]
    notes = {
        name: [note(n, end, at=n, charged=costs[end])]
        for n, (name, end) in enumerate(zip(names, ends, strict=True))
    }
    charges = [
        charge(costs[end], name, nth=n)
        for n, (name, end) in enumerate(zip(names, ends, strict=True))
    ]
    facts = replace(
        GOOD,
        prices=dict.fromkeys(names, PRICE),
        notes=notes,
        served=[Served(request=name, life="1", at=-1) for name in names],
    )
    assert judge(paying(facts, *charges)) == []

    chosen = which % len(ends)
    most = PRICE if ends[chosen] == "begun" else costs[ends[chosen]]
    charges[chosen] = replace(charges[chosen], amount=most + more)
    assert {"doubled", "lost"} & set(blamed(paying(facts, *charges)))


@pytest.mark.parametrize(
    ("name", "facts", "blames"),
    [
        ("less than the price", paying(GOOD, A), {"unpaid"}),
        (
            "charged for what was refused",
            paying(GOOD, A, D, charge(PRICE, "c")),
            {"lost"},
        ),
        ("charged for no request", paying(GOOD, A, D, charge(1)), {"doubled"}),
        (
            "one payment for two requests",
            paying(GOOD, charge(PRICE, "a", "b"), D),
            {"unpaid"},
        ),
        ("more than was charged", replace(GOOD, charges=(A,)), {"doubled", "unpaid"}),
        (
            "less than was charged",
            replace(GOOD, money=moved(PRICE), booked=PRICE),
            {"unpaid"},
        ),
        ("books that say less", replace(GOOD, booked=PRICE), {"lost"}),
        (
            "money that is nowhere",
            replace(GOOD, money=replace(GOOD.money, left=FUNDS - 3 * PRICE)),
            {"lost"},
        ),
        (
            "a request that was not begun",
            replace(GOOD, notes={**GOOD.notes, "c": []}),
            {"stuck"},
        ),
        ("an answer nobody made", replace(GOOD, served=GOOD.served[:1]), {"lost"}),
        (
            "an answer of another request",
            replace(GOOD, notes={**GOOD.notes, "c": [note(2, "wrong 500", at=2)]}),
            {"wrong"},
        ),
    ],
)
def test_what_is_not_right_is_blamed(name: str, facts: Facts, blames: set[str]) -> None:
    assert set(blamed(facts)) == blames, name


def run(at: float, *, life: str = "1", ended: float = 0, status: int = 0) -> Served:
    """Of `a`'s handler."""
    return Served(request="a", life=life, at=at, ended=ended, status=status)


@pytest.mark.parametrize(
    "first",
    [
        run(0.1, ended=0.2, status=200),
        run(0.1, ended=0.45, status=503),
        run(0.1),
    ],
    ids=["which left", "withheld too late", "still running"],
)
def test_a_handler_does_not_run_again_beside_its_answer(first: Served) -> None:
    assert blamed(replace(GOOD, served=[first, *GOOD.served])) == {"doubled": PRICE}


def test_an_answer_that_was_withheld_is_made_again() -> None:
    first = run(0.1, ended=0.2, status=503)
    facts = replace(GOOD, served=[first, *GOOD.served])
    assert judge(facts) == []
    assert made_again(facts) == (1, 0)


def test_the_next_life_makes_an_answer_again_only_for_who_waits() -> None:
    facts = replace(GOOD, served=[run(0.2, life="0"), *GOOD.served])
    assert judge(facts) == []
    assert made_again(facts) == (0, 1)

    late = replace(GOOD, served=[*GOOD.served, run(0.6, life="2")])
    assert blamed(late) == {"doubled": PRICE}


def test_what_was_made_and_charged_to_nobody_is_counted() -> None:
    facts = replace(GOOD, served=[*GOOD.served, Served(request="b", life="1", at=1.1)])
    assert (given_away(GOOD), given_away(facts)) == (0, 1)


@pytest.mark.parametrize("strikes", [[], [Strike(what="http: answer cut", moments=[])]])
def test_a_fault_that_met_nothing_is_none(strikes: list[Strike]) -> None:
    assert blamed(replace(GOOD, strikes=strikes)) == {"wrong": 1}


def after(moments: list[float], *, back: float = 0.0) -> tuple[float, int]:
    strike = Strike(what="a fault", moments=moments, back=back)
    return recovery(replace(GOOD, strikes=[strike]))


def test_recovery_ends_with_an_answer_that_was_asked_for_after_the_fault_struck() -> (
    None
):
    # `a` is asked for at 0 and answered at 0.5, `d` at 3 and 3.5.
    assert after([0.2]) == pytest.approx((3.3, 0)), "an answer that was on its way"
    assert after([0.2], back=2.5) == pytest.approx((1.0, 0)), "since it was back"
    assert after([0.2, 2.0]) == pytest.approx((1.5, 0)), "since the last of it"
    assert after([3.2]) == (0.0, 1), "no answer is no recovery"
    assert after([]) == (0.0, 0), "what did not happen needs none"


def head(name: str, header: str, payload: object) -> bytes:
    said = base64.b64encode(json.dumps({"payload": payload}).encode()).decode()
    lines = ["GET /fixed HTTP/1.1", f"{header}{said}"]
    return "\r\n".join([*lines, *([f"X-Request: {name}"] if name else [])]).encode()


def test_payments_are_told_apart_by_what_was_signed() -> None:
    x402, mpp = "PAYMENT-SIGNATURE: ", "Authorization: Payment "
    of_x402 = {"voucher": {"channelId": "0xC", "maxClaimableAmount": "1000"}}
    of_mpp = {"action": "voucher", "channelId": "0xc", "cumulativeAmount": "2000"}
    assert payments(
        [
            b"GET /fixed HTTP/1.1\r\nX-Request: free",
            head("a", x402, of_x402),
            head("", x402, of_x402),
            head("b", mpp, of_mpp),
            head("c", mpp, of_mpp),
            head("d", x402, {"authorization": {"nonce": "0xA"}}),
            head("e", mpp, {"type": "authorization", "nonce": "0xB"}),
        ]
    ) == {
        Payment(by="0xc", cumulative=1000): {"a"},
        Payment(by="0xc", cumulative=2000): {"b", "c"},
        Payment(by="0xa"): {"d"},
        Payment(by="0xb"): {"e"},
    }


async def test_the_door_tells_what_was_made_from_what_left(tmp_path: Path) -> None:
    file = str(tmp_path / "served")
    made = made_by(file)

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        name = made(scope)
        if scope["path"] == "/201":
            made(scope)
        if scope["path"] == "/raises":
            raise RuntimeError(name)
        await answer(send, int(scope["path"][1:]), b"")

    transport = httpx.ASGITransport(Door(handler, file), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        for path in ("/200", "/201", "/503", "/raises"):
            await client.get(path, headers={"x-request": path[1:]})

    served = read_served(file)
    assert [(s.request, s.status) for s in served] == [
        ("200", 200),
        ("201", 201),
        ("201", 201),
        ("503", 503),
        ("raises", 0),
    ]
    assert [s.withheld_at is None for s in served] == [True, True, True, False, False]
