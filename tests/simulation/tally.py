"""
What a history did, counted; and written down, when somebody wants to read it.
"""

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of one history, or of many."""

    histories: int = 0
    steps: int = 0
    """Moves of the scheduler."""
    transitions: int = 0
    """Events that the rules decided about."""
    sentences: int = 0
    """Promises that were checked, each after a move."""
    told: bool = False
    """Whether to print each move."""
    moves: list[str] = field(default_factory=list[str])

    def move(self, name: str, state: object) -> None:
        """One more move is made; the last ones are remembered."""
        self.steps += 1
        self.moves = [*self.moves[-7:], name]
        if self.told:
            print(f"{self.steps:4} {name}: {state}")

    def add(self, other: "Tally") -> None:
        self.histories += other.histories
        self.steps += other.steps
        self.transitions += other.transitions
        self.sentences += other.sentences
