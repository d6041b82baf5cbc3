"""Problems: what one side says, the other understands, whatever else it reads."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.wire.mpp.binding import EchoFault
from agentpay.wire.mpp.problem import (
    BODY_BYTES_MAX,
    Books,
    Problem,
    ProblemKind,
    problem_of,
    read_problem,
    write_problem,
)

from .factories import objects, texts

kinds = st.sampled_from(ProblemKind)


@given(kinds, texts, st.none() | texts, st.none() | texts)
def test_a_problem_comes_back(
    kind: ProblemKind, detail: str, challenge_id: str | None, channel_id: str | None
) -> None:
    body = write_problem(kind, detail, challenge_id=challenge_id, channel_id=channel_id)

    assert json.loads(body)["status"] == kind.status
    assert read_problem(body) == Problem(
        type=kind.type,
        kind=kind,
        title=kind.title,
        detail=detail,
        challenge_id=challenge_id,
        channel_id=channel_id,
    )


amounts = st.integers(min_value=0, max_value=2**128 - 1)


@given(kinds, amounts, amounts, amounts, st.none() | amounts)
def test_a_problem_says_how_a_session_stands(
    kind: ProblemKind, accepted: int, spent: int, deposit: int, required: int | None
) -> None:
    books = Books(accepted=accepted, spent=spent, deposit=deposit, required=required)
    problem = read_problem(write_problem(kind, "", status=503, books=books))

    assert problem is not None
    assert problem.of_a_paywall
    assert (problem.accepted_cumulative, problem.spent) == (accepted, spent)
    assert (problem.deposit, problem.required_cumulative) == (deposit, required)


@pytest.mark.parametrize("spent", [7, "-1", "1.5", "", "9" * 400, None, ["1"]])
def test_an_amount_that_is_none_is_not_read(spent: object) -> None:
    problem = read_problem(json.dumps({"type": "about:blank", "spent": spent}).encode())

    assert problem is not None
    assert problem.spent is None
    assert not problem.of_a_paywall


def test_the_example_of_the_draft_is_understood() -> None:
    problem = read_problem(
        b'{"type": "https://paymentauth.org/problems/session/invalid-signature",'
        b'"title": "Invalid Signature", "status": 402,'
        b'"detail": "Voucher signature could not be verified",'
        b'"channelId": "0x6d0f4fdf"}'
    )

    assert problem is not None
    assert problem.kind is ProblemKind.INVALID_SIGNATURE
    assert problem.channel_id == "0x6d0f4fdf"


@given(st.binary(max_size=50) | objects.map(lambda o: json.dumps(o).encode()))
def test_any_body_is_read_without_a_fault(body: bytes) -> None:
    problem = read_problem(body)

    assert problem is None or problem.kind is None


def test_what_a_server_says_is_cut_to_a_bounded_length() -> None:
    problem = read_problem(json.dumps({"detail": "x" * 5000, "title": 7}).encode())

    assert problem is not None
    assert (problem.type, problem.title, len(problem.detail)) == (
        "about:blank",
        "",
        1024,
    )
    assert read_problem(b" " * (BODY_BYTES_MAX + 1)) is None


def test_the_kinds_are_those_of_the_drafts() -> None:
    statuses = {
        kind.type.partition("problems/")[2]: kind.status for kind in ProblemKind
    }

    assert len(statuses) == len(ProblemKind)
    assert statuses["method-unsupported"] == 400
    assert statuses["session/transaction-reverted"] == 409
    assert statuses["session/channel-finalized"] == 410
    assert statuses["session/channel-not-found"] == 410


@pytest.mark.parametrize("fault", EchoFault)
def test_every_fault_of_an_echo_is_answered_with_a_fresh_offer(
    fault: EchoFault,
) -> None:
    assert problem_of(fault).status == 402
