"""
Server-sent events: how a paid stream asks for money and gives its receipt.

Source: draft-evm-session-00, "Insufficient Balance During Streaming" and "Receipt
Generation"; WHATWG HTML, "Server-sent events". Events that are not ours pass through.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.wire.headers import JsonObject, read_object
from agentpay.wire.mpp.evm_session import NeedVoucher
from agentpay.wire.mpp.fields import read
from agentpay.wire.mpp.receipt import SessionReceipt

NEED_VOUCHER: Final = "payment-need-voucher"
RECEIPT: Final = "payment-receipt"
EVENT_STREAM: Final = "text/event-stream"
EVENT_BYTES_MAX: Final = 1024 * 1024
OUR_DATA_BYTES_MAX: Final = 64 * 1024

HELD_BYTES_MAX: Final = 64 * 1024

_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_BREAK = re.compile(rb"\r\n|\n|\r")
_OURS = re.compile(rb"(?:^|[\r\n])event: ?payment-")
_TEXT_BREAK = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """One event of a stream."""

    event: str = "message"
    data: str


def format_event(event: ServerEvent) -> bytes:
    """
    Write an event as it stands in a stream.

    Raises:
        ValueError: Its name has a line break.
    """
    if _TEXT_BREAK.search(event.event):
        raise ValueError(f"the name of an event has a line break: {event.event[:40]!r}")
    name = "" if event.event == "message" else f"event: {event.event}\n"
    data = "".join(f"data: {line}\n" for line in _TEXT_BREAK.split(event.data))
    return f"{name}{data}\n".encode()


def payment_event(name: str, data: JsonObject) -> bytes:
    """Write `payment-need-voucher` or `payment-receipt` with its data."""
    text = json.dumps(data, separators=(",", ":"))
    return format_event(ServerEvent(event=name, data=text))


def read_need_voucher(event: ServerEvent) -> NeedVoucher:
    """
    Read the data of `payment-need-voucher`.

    Raises:
        MalformedMessage: It is something else.
    """
    return read(NeedVoucher, _object(event), NEED_VOUCHER)


def read_receipt(event: ServerEvent) -> SessionReceipt:
    """
    Read the data of `payment-receipt`.

    Raises:
        MalformedMessage: It is something else.
    """
    return read(SessionReceipt, _object(event), RECEIPT)


def _object(event: ServerEvent) -> JsonObject:
    raw = event.data.encode("utf-8")
    if len(raw) > OUR_DATA_BYTES_MAX:
        raise MessageTooLarge(f"{event.event[:40]} has {len(raw)} bytes of data")
    return read_object(raw, name=event.event[:40])


class EventReader:
    """
    Reads events from a stream, in whatever pieces it comes.

    Each byte is looked at once. What a stream leaves unfinished is no event.
    """

    __slots__ = ("_after_cr", "_begun", "_data", "_event", "_held", "_line")

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[str] = []
        self._event = ""
        self._held = 0
        self._after_cr = False
        self._begun = False

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """
        Take the next piece; give the events that it completes.

        Raises:
            MessageTooLarge: An event has more than 1 MiB.
            MalformedMessage: The stream is not UTF-8.
        """
        if not chunk:
            return []
        after_cr, self._after_cr = self._after_cr, chunk.endswith(b"\r")
        if after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the second half of a line break that ended before
        return list(self._lines(chunk))

    def _lines(self, chunk: bytes) -> Iterator[ServerEvent]:
        first, *rest = _BREAK.split(chunk)
        self._hold(first)
        for piece in rest:
            line = b"".join(self._line)
            self._line = []
            if not self._begun:
                self._begun = True
                line = line.removeprefix(codecs.BOM_UTF8)
            if (event := self._take(line)) is not None:
                yield event
            self._hold(piece)

    def _hold(self, piece: bytes) -> None:
        self._held += len(piece)
        if self._held > EVENT_BYTES_MAX:
            raise MessageTooLarge(f"an event has more than {EVENT_BYTES_MAX} bytes")
        self._line.append(piece)

    def _take(self, line: bytes) -> ServerEvent | None:
        """One whole line: a field of the event, or its end."""
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedMessage("a stream of events is not UTF-8") from error
        if not text:
            name, data = self._event, self._data
            self._event, self._data, self._held = "", [], 0
            if not data:
                return None
            return ServerEvent(event=name or "message", data="\n".join(data))
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        else:
            self._held -= len(line)  # a comment or another field: nothing is kept
        return None


class EventCutter:
    """
    Cuts a stream of events where one ends, so that others may stand between them.

    What is not whole yet is held back, up to 64 KiB.
    """

    __slots__ = ("_held", "between")

    def __init__(self) -> None:
        self._held: bytes = b""
        self.between = True
        """Whether what was given out ends where an event does."""

    @property
    def holds(self) -> bool:
        """Whether something was taken and not given out."""
        return bool(self._held)

    def feed(self, chunk: bytes) -> bytes:
        """Take the next piece; give what may leave now."""
        if not self._held and chunk.endswith((b"\n\n", b"\r\n\r\n")):
            self.between = True
            return chunk
        chunk = self._held + chunk
        end = 0
        for found in _END.finditer(chunk):
            end = found.end()
        if end or len(chunk) <= HELD_BYTES_MAX:
            self.between = self.between or end > 0
            self._held = chunk[end:]
            if len(self._held) <= HELD_BYTES_MAX:
                return chunk[:end]
        self._held, self.between = b"", False
        return chunk

    def rest(self) -> bytes:
        """What is held, and the blank line that lets another event follow."""
        rest, self._held = self._held, b""
        if not rest and self.between:
            return b""
        self.between = True
        return rest + b"\n\n"


class EventSplitter:
    """
    Takes payment events out of a stream: what is left is as its application sent it.

    An event is given out once it is whole; one above 64 KiB as it comes.
    """

    __slots__ = ("_held", "_midway")

    def __init__(self) -> None:
        self._held: bytes = b""
        self._midway = False

    def feed(self, chunk: bytes) -> list[bytes | ServerEvent]:
        """
        Take the next piece; give the events that it completes, and ours as values.

        Raises:
            MalformedMessage: An event of ours is not UTF-8.
        """
        seen = max(0, len(self._held) - 3)  # no event ends before
        chunk = self._held + chunk
        pieces: list[bytes | ServerEvent] = []
        start = 0
        # The other half of a line break may still come.
        for found in _END.finditer(chunk.removesuffix(b"\r"), seen):
            pieces.append(self._piece(chunk[start : found.end()]))
            start = found.end()
        self._held = chunk[start:]
        if len(self._held) > HELD_BYTES_MAX:
            pieces.append(self._held)
            self._held, self._midway = b"", True
        return pieces

    def _piece(self, block: bytes) -> bytes | ServerEvent:
        whole, self._midway = not self._midway, False
        if not whole or _OURS.search(block) is None:
            return block
        events = EventReader().feed(block)
        ours = bool(events) and events[0].event in (NEED_VOUCHER, RECEIPT)
        return events[0] if ours else block

    def rest(self) -> bytes:
        """What is not whole, at the end."""
        rest, self._held = self._held, b""
        return rest


def read_events(block: bytes) -> list[ServerEvent]:
    """
    The events of a piece of a stream that begins and ends where events do.

    Raises:
        MessageTooLarge, MalformedMessage: As of `EventReader`.
    """
    return EventReader().feed(block)
