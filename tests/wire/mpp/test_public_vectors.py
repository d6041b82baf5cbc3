"""
MPP's public vectors, run through the conformance adapter as its runner would.

A written header is compared by what it is read as, as that runner does.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
ADAPTER = ROOT / "tools" / "mpp_adapter.py"
VECTORS = sorted((ROOT / "vectors" / "mpp").glob("*.json"))

OPERATIONS = {
    "parse-www-authenticate": "challenge.parse",
    "format-www-authenticate": "challenge.format",
    "parse-authorization": "credential.parse",
    "format-authorization": "credential.format",
    "parse-receipt": "receipt.parse",
    "format-receipt": "receipt.format",
    "base64url-decode": "base64url.decode",
    "base64url-encode": "base64url.encode",
    "generate-challenge-id": "challenge.id",
}
SECONDS = 5
"""What that vector may take, by its own word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test of one scenario."""

    file: str
    name: str
    kind: str
    operation: str
    given: dict[str, Any]
    expected: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.file}-{self.name}-{self.kind}"


def ask(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All answers of one run of the adapter."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(  # noqa: S603 - our own interpreter, our own program
        [sys.executable, str(ADAPTER)],
        input=lines,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def request(operation: str, given: dict[str, Any]) -> dict[str, Any]:
    return {"schema": 1, "op": operation, "input": given}


def wire_of(scenario: dict[str, Any]) -> str:
    wire = scenario.get("wire", "")
    if isinstance(wire, dict):
        return str(wire["prefix"] + wire["repeat"] * wire["count"])
    return str(wire)


def cases_of(path: Path) -> list[Case]:
    vectors = json.loads(path.read_text(encoding="utf-8"))
    commands = {kind: OPERATIONS[name] for kind, name in vectors["commands"].items()}
    commands["roundtrip"] = commands.get("format", "")
    return [
        case(path.stem, scenario, kind, commands[kind], expected)
        for scenario in vectors["scenarios"]
        for kind, expected in scenario.get("tests", {"generate": True}).items()
    ]


def case(
    file: str, scenario: dict[str, Any], kind: str, operation: str, expected: Any
) -> Case:
    value: Any
    if kind == "generate":
        given, value = scenario["input"], {"id": scenario.get("expected")}
    elif file == "base64url":
        encoded = {"text": scenario["encoded"]}
        decoded = {"text": scenario.get("decoded")}
        given, value = (encoded, decoded) if kind == "parse" else (decoded, encoded)
    elif kind == "parse":
        given, value = {"header": wire_of(scenario)}, scenario.get("object")
    else:
        given, value = scenario["object"], {"header": wire_of(scenario)}
    outcome: dict[str, Any] = {"ok": True, "value": value}
    if isinstance(expected, dict):
        outcome = {"ok": False, "error": expected["error_type"]}
    return Case(
        file=file,
        name=scenario["name"],
        kind=kind,
        operation=operation,
        given=given,
        expected=outcome,
    )


CASES = [case for path in VECTORS for case in cases_of(path)]


def reading(operation: str) -> str:
    """The operation that reads what another one writes."""
    return operation.replace("format", "parse").replace("encode", "decode")


@cache
def outcomes() -> dict[str, tuple[Any, Any]]:
    """For each case what was expected and what came, in two runs of the adapter."""
    first = ask([request(case.operation, case.given) for case in CASES])
    again: list[tuple[Case, dict[str, Any]]] = []
    found: dict[str, tuple[Any, Any]] = {}
    for case, answer in zip(CASES, first, strict=True):
        if not answer["ok"]:
            answer = {"ok": False, "error": answer["error"]["type"]}  # noqa: PLW2901
        found[str(case)] = (case.expected, answer)
        if answer["ok"] and case.kind in ("format", "roundtrip"):
            again.append((case, answer))
    read = ask([request(reading(c.operation), a["value"]) for c, a in again])
    expected = ask(
        [request(reading(c.operation), c.expected["value"]) for c, _ in again]
    )
    for (case, _), theirs, ours in zip(again, expected, read, strict=True):
        same = {"ok": True, "value": case.given}
        found[str(case)] = (same if case.kind == "roundtrip" else theirs, ours)
    return found


def is_met(case: Case) -> bool:
    expected, answer = outcomes()[str(case)]
    return bool(expected == answer)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_public_vector_is_met(case: Case) -> None:
    expected, answer = outcomes()[str(case)]

    assert answer == expected


def test_all_public_vectors_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    passed = Counter(case.file for case in CASES if is_met(case))
    with capsys.disabled():
        counts = ", ".join(f"{name} {count}" for name, count in sorted(passed.items()))
        print(f"\nMPP's public vectors: {passed.total()} of {len(CASES)} ({counts})")

    assert len({str(case) for case in CASES}) == len(CASES) == 123
    assert len(VECTORS) == 5


def test_twelve_thousand_backslashes_take_no_time() -> None:
    (slow,) = (case for case in CASES if case.name.startswith("adversarial"))
    before = os.times()
    (answer,) = ask([request(slow.operation, slow.given)])
    after = os.times()

    assert answer["ok"]
    assert after.children_user - before.children_user < SECONDS


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("x", "unknown_error"),
        ("[]", "unknown_error"),
        ('{"op": "challenge.parse"}', "unknown_error"),
        ('{"op": "http.payment_request", "input": {}}', "unsupported_operation"),
        ('{"op": ["challenge.parse"], "input": {}}', "unsupported_operation"),
        ('{"op": "challenge.parse", "input": []}', "parse_error"),
        ('{"op": "challenge.parse", "input": {"header": 7}}', "parse_error"),
        ('{"op": "credential.format", "input": {}}', "format_error"),
        ('{"op": "receipt.format", "input": {}}', "format_error"),
        ('{"op": "base64url.encode", "input": {"text": "\\ud800"}}', "encoding_error"),
    ],
)
def test_the_adapter_answers_whatever_it_is_asked(line: str, kind: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own interpreter, our own program
        [sys.executable, str(ADAPTER)],
        input=line,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert json.loads(done.stdout)["error"]["type"] == kind
