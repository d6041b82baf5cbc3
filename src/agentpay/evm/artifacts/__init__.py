"""
Our compiled contracts, as committed: no compiler is needed to use the library.

The JSON files are written by `tools/contracts.py`; a test compiles again and compares.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A compiled contract."""

    name: str
    abi: tuple[dict[str, Any], ...]
    creation: bytes
    """What a deploying transaction carries, before the constructor's arguments."""
    runtime: bytes
    """What then is at the address, but with zeros for what a constructor fills in."""


@lru_cache(maxsize=16)
def load_artifact(name: str) -> Artifact:
    """
    Read a compiled contract by its name in Solidity.

    Raises:
        FileNotFoundError: There is none of that name.
    """
    text = files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    fields: dict[str, Any] = json.loads(text)
    return Artifact(
        name=name,
        abi=tuple(fields["abi"]),
        creation=bytes.fromhex(fields["bytecode"].removeprefix("0x")),
        runtime=bytes.fromhex(fields["deployedBytecode"].removeprefix("0x")),
    )
