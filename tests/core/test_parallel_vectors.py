"""
The published vectors are what the rules say today, and say enough.
"""

import json

from agentpay.core import payee_events, payer_channel

from .parallel_vectors import PATH, render


def test_the_published_vectors_are_not_stale() -> None:
    assert PATH.read_text() == render(), "run python -m tests.core.parallel_vectors"


def test_every_kind_of_answer_is_shown() -> None:
    shown = json.loads(PATH.read_text())
    kinds = {
        step["answer"]["kind"]
        for side in ("payee", "payer")
        for case in shown[side].values()
        for step in case["steps"]
    }
    answers = (*payee_events.Answer.__args__, *payer_channel.PayerAnswer.__args__)

    ours = {answer.__name__ for answer in answers}
    assert kinds == ours - {payee_events.PartGiven.__name__}


def test_no_signature_is_published() -> None:
    assert "signature" not in PATH.read_text()
