"""
Runs a program of a peer's (`tests/peers`) in that peer's environment, as a child.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from peer_evidence import Evidence, Json, read_note

from bench.program import PEERS as PYTHON
from bench.program import PEERS_MPP as MPP_PYTHON
from bench.program import PROGRAMS, Program, ProgramFailed

__all__ = ["MPP_PYTHON", "PROGRAMS", "PYTHON", "Peer", "PeerFailed"]

PeerFailed = ProgramFailed


class Peer:
    """A program in the peer's environment, and what it has seen."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.version: str = program.facts["version"]
        self.url: str = program.facts.get("url", "")

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, program: str, settings: Json, *, by: Path = PYTHON
    ) -> AsyncIterator["Peer"]:
        """Start it by an interpreter, and end it by its process id."""
        async with Program.running(PROGRAMS / program, settings, by=by) as running:
            yield cls(running)

    async def ask(self, **command: Any) -> Json:
        """
        Send a line and read the answer.

        Raises:
            PeerFailed: It could not, or ended, or says nothing.
        """
        return await self._program.ask(**command)

    async def notes(self) -> list[Evidence]:
        """What it saw since it was last asked: every exchange with a payment."""
        answer = await self.ask(do="notes")
        return [read_note(note) for note in answer["notes"]]
