"""What a plain `pip install agentpay-sdk` brings."""

import subprocess
import sys
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def _closure(name: str, extras: frozenset[str], seen: set[str]) -> None:
    seen.add(canonicalize_name(name))
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        wanted = marker is None or any(
            marker.evaluate({"extra": extra}) for extra in extras | {""}
        )
        if wanted and canonicalize_name(requirement.name) not in seen:
            _closure(requirement.name, frozenset(requirement.extras), seen)


def test_the_base_install_is_at_most_fifty_packages() -> None:
    packages: set[str] = set()
    _closure("agentpay-sdk", frozenset(), packages)

    assert len(packages) <= 50, sorted(packages)
    for heavy in ("fastapi", "starlette", "uvicorn", "typer", "rich", "asyncpg"):
        assert heavy not in packages
    assert "httpx2" not in packages


def test_the_command_says_what_to_install_without_its_extra() -> None:
    program = (
        "import sys; sys.modules['typer'] = None;"
        " from agentpay.cli.main import main; main()"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter, our own words
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "agentpay-sdk[cli]" in done.stderr


def test_an_agent_says_what_to_install_without_httpx2() -> None:
    program = (
        "import sys; sys.modules['httpx2'] = None;"
        " from agentpay import Agent, Budget, Wallet;"
        " budget = Budget(total='$1', per_request='$1');"
        " Agent(Wallet.create(), budget=budget).httpx2_transport()"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter, our own words
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "ConfigurationError" in done.stderr
    assert "agentpay-sdk[httpx2]" in done.stderr
