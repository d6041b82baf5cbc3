"""
Whose turn it is, where not all can have one in a round.

Kept in memory. A restart lines all of them up anew, which loses nothing.
"""

from collections.abc import Iterable

from agentpay.types import Hash32


class Turns:
    """A line of channels: who had a turn goes to its end, and so do new ones."""

    def __init__(self) -> None:
        self._line: dict[Hash32, None] = {}

    def __len__(self) -> int:
        return len(self._line)

    def line_up(self, wanting: Iterable[Hash32]) -> list[Hash32]:
        """All that want a turn, who has waited for the longest first."""
        new = dict.fromkeys(wanting)
        self._line = {each: None for each in self._line if each in new} | new
        return list(self._line)

    def had(self, channel: Hash32) -> None:
        """It had its turn: if it wants another, all the others come before it."""
        self._line.pop(channel, None)
        self._line[channel] = None
