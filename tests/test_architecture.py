"""The house rules that no linter knows: layers, purity, sizes, and what loads when."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentpay

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "agentpay"

LAYERS = (
    ("errors", "stream_errors", "types"),
    ("core",),
    ("evm",),
    ("wire",),
    ("records", "ports", "sending_ports", "session_ports"),
    ("signers", "chain", "stores"),
    (
        "history",
        "onchain",
        "one_attempt",
        "session_onchain",
        "shortage",
        "whole_steps",
        "facilitator",
        "payee",
        "payer",
    ),
    ("http",),
    ("agent", "metrics"),
    ("cli", "testing"),
)
"""From the ground up; ARCHITECTURE.md says what each is for."""

PURE = ("errors", "stream_errors", "types", "core", "evm", "wire", "records")
IMPURE_MODULES = {
    "asyncio", "logging", "os", "pathlib", "random", "secrets", "socket", "sqlite3",
    "subprocess", "threading", "time", "datetime", "httpx", "httpx2", "web3",
    "eth_account",
}  # fmt: skip
FILES_READ_BY_PURE_LAYERS = {SOURCE / "evm" / "artifacts" / "__init__.py"}
OWNERS = {
    "web3": {"chain"},
    "eth_account": {"chain"},
    "cryptography": {"signers"},
    "sqlite3": {"stores"},
    "aiohttp": {"http", "chain"},
    "httpx": {"http", "agent", "testing", "chain"},
    "httpx2": {"http"},
    "pydantic": {"wire"},
    "fastapi": {"cli"},
    "starlette": {"http"},
    "uvicorn": {"cli"},
    "opentelemetry": {"metrics"},
    "prometheus_client": {"metrics"},
}
"""Which layers may import which libraries."""


def _modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def _part(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


def _layer(part: str) -> int:
    return next(n for n, parts in enumerate(LAYERS) if part in parts)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_module_imports_its_own_layer_or_lower_ones(path: Path) -> None:
    part = _part(path)
    if part == "__init__":
        return
    for name in _imports(path):
        if not name.startswith("agentpay."):
            continue
        other = name.split(".")[1]

        assert _layer(other) <= _layer(part), f"{path.name} imports {name}"
        siblings = _layer(other) == _layer(part) and other != part
        adapters = part in ("signers", "chain", "stores")
        assert not (siblings and adapters), f"adapters know each other: {name}"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_pure_module_has_no_clock_no_chance_and_no_io(path: Path) -> None:
    if _part(path) not in PURE or path in FILES_READ_BY_PURE_LAYERS:
        return
    imported = {name.partition(".")[0] for name in _imports(path)}

    assert not imported & IMPURE_MODULES
    assert not any(isinstance(f, ast.AsyncFunctionDef) for f in _functions(path))


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_library_is_imported_only_where_it_belongs(path: Path) -> None:
    for name in _imports(path):
        allowed = OWNERS.get(name.partition(".")[0])
        if allowed is not None:
            assert _part(path) in allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    for function in _functions(path):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0

        assert lines <= 60, f"{function.name} has {lines} lines"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()

    assert not text or ast.get_docstring(ast.parse(text)), "no module docstring"


def test_values_of_the_pure_layers_are_frozen_and_slotted() -> None:
    for path in _modules():
        if _part(path) not in PURE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            for decorator in node.decorator_list:
                words = ast.unparse(decorator)
                if words.startswith("dataclass"):
                    assert "frozen=True" in words, node.name
                    assert "slots=True" in words, node.name
                    assert "kw_only=True" in words, node.name


def test_every_public_name_loads_and_has_a_docstring() -> None:
    for name in agentpay.__all__:
        assert getattr(agentpay, name).__doc__, name


def test_importing_agentpay_loads_nothing_heavy() -> None:
    program = "import sys, agentpay; print(*sys.modules)"
    loaded = subprocess.run(  # noqa: S603 - our own interpreter, our own words
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    for heavy in ("web3", "eth_account", "fastapi", "starlette", "httpx", "pydantic"):
        assert heavy not in loaded


def test_using_an_agent_loads_neither_web3_nor_a_web_framework() -> None:
    program = "import sys; from agentpay import Agent, Wallet; print(*sys.modules)"
    loaded = subprocess.run(  # noqa: S603 - our own interpreter, our own words
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    for heavy in ("web3", "eth_account", "fastapi", "starlette", "uvicorn", "httpx2"):
        assert heavy not in loaded


def test_no_file_names_a_registry_or_a_machine() -> None:
    words = re.compile(
        r"pypi\.org|pythonhosted|registry\.npmjs|npmjs\.com|/root/|/work/", re.ASCII
    )
    listed = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607 - whichever git there is
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        found = words.search(path.read_text(encoding="utf-8", errors="ignore"))

        assert found is None, f"{name} names {found and found[0]}"


def test_no_test_changes_how_the_shared_chain_mines() -> None:
    """It is not turned back: all tests that follow would wait for its blocks."""
    shared = {"agentpay_shared_chain", "agentpay_chain"}
    changes = re.compile(r"evm_set(IntervalMining|Automine)")
    wrong = [
        f"{path.name}: {node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        if "node_modules" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and shared & {argument.arg for argument in node.args.args}
        and changes.search(ast.unparse(node))
    ]

    assert wrong == []
