"""
How a metered answer ends: what was delivered is charged, and nothing after it.
"""

from agentpay.errors import AgentPayError


class StreamEnded(AgentPayError):
    """
    Nothing more of this answer is paid for: its handler ends it.

    `await meter.charge(...)` raises it. A handler that does not catch it has its answer
    ended in good order.
    """

    code = "stream_ended"


class StreamExhausted(StreamEnded):
    """What was signed is used up and no more came, or what it may cost at most is."""

    code = "stream_exhausted"

    def __init__(self, *, needed: int, covered: int) -> None:
        super().__init__(
            f"the answer comes to {needed} with this piece, and {covered} is paid for"
        )
        self.needed = needed
        self.covered = covered


class StreamAbandoned(StreamEnded):
    """The client has left: it is charged for what was delivered to it."""

    code = "stream_abandoned"


class StreamLost(StreamEnded):
    """The books of this answer are gone, or cannot be written: nothing more is sent."""

    code = "stream_lost"
