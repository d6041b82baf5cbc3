"""Events: whatever pieces a stream comes in, they are the same events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.types import ChainId, Hash32
from agentpay.wire.mpp.evm_write import need_voucher
from agentpay.wire.mpp.receipt import session_receipt
from agentpay.wire.mpp.sse import (
    EVENT_BYTES_MAX,
    HELD_BYTES_MAX,
    NEED_VOUCHER,
    RECEIPT,
    EventCutter,
    EventReader,
    EventSplitter,
    ServerEvent,
    format_event,
    payment_event,
    read_need_voucher,
    read_receipt,
)

CHANNEL = Hash32("0x" + "6d" * 32)
names = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=9)
events = st.builds(
    ServerEvent,
    event=names.map(lambda name: name or "message"),
    data=st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=30),
)


def read_all(stream: bytes, cuts: list[int] | None = None) -> list[ServerEvent]:
    reader = EventReader()
    places = sorted({cut % (len(stream) + 1) for cut in cuts or []})
    begins, ends = [0, *places], [*places, len(stream)]
    pieces = [stream[begin:end] for begin, end in zip(begins, ends, strict=True)]
    return [event for piece in pieces for event in reader.feed(piece)]


@given(st.lists(events, max_size=4), st.lists(st.integers(0, 500), max_size=12))
def test_events_come_back_in_any_pieces(
    sent: list[ServerEvent], cuts: list[int]
) -> None:
    stream = b"".join(format_event(event) for event in sent)

    assert read_all(stream, cuts) == sent


@given(
    st.binary(max_size=60)
    | st.text("\r\n:daten vx\ufeff", max_size=60).map(str.encode),
    st.lists(st.integers(0, 60), max_size=8),
)
def test_pieces_make_no_difference(stream: bytes, cuts: list[int]) -> None:
    def outcome(cuts: list[int]) -> object:
        try:
            return read_all(stream, cuts)
        except MalformedMessage as error:
            return str(error)

    assert outcome(cuts) == outcome([])


def test_every_line_break_of_the_standard_is_one() -> None:
    for ending in (b"\n", b"\r\n", b"\r"):
        stream = ending.join(
            [b"event: a", b"data:1", b"data: 2", b"", b"data: 3", b"", b""]
        )

        for cut in range(len(stream)):
            assert read_all(stream, [cut]) == [
                ServerEvent(event="a", data="1\n2"),
                ServerEvent(data="3"),
            ]


def test_what_is_no_event_is_passed_over() -> None:
    stream = (
        b"\xef\xbb\xbf: hello\n\nid: 7\nretry: 1\nevent: x\n\ndata\n\ndata: cut off\n"
    )

    assert read_all(stream) == [ServerEvent(data="")]


def test_a_stream_asks_for_a_voucher() -> None:
    data = need_voucher(CHANNEL, required=250_025, accepted=250_000, deposit=500_000)
    (event,) = read_all(payment_event(NEED_VOUCHER, data))
    need = read_need_voucher(event)

    assert event.event == "payment-need-voucher"
    assert (need.channel_id, need.required_cumulative) == (CHANNEL, 250_025)
    assert (need.accepted_cumulative, need.deposit) == (250_000, 500_000)


def test_a_stream_ends_with_its_receipt() -> None:
    data = session_receipt(
        challenge_id="ch_1",
        chain=ChainId(196),
        channel=CHANNEL,
        accepted=250_000,
        spent=237_500,
        at=1_775_045_310,
        units=500,
    )
    (event,) = read_all(payment_event(RECEIPT, data))
    receipt = read_receipt(event)

    assert event.event == "payment-receipt"
    assert (receipt.accepted_cumulative, receipt.spent) == (250_000, 237_500)
    assert receipt.timestamp == "2026-04-01T12:08:30Z"


@pytest.mark.parametrize("data", ["", "[]", "{}", '{"channelId":"0x6d"}', "x" * 70_000])
def test_data_that_is_something_else_is_refused(data: str) -> None:
    for name, reads in ((NEED_VOUCHER, read_need_voucher), (RECEIPT, read_receipt)):
        with pytest.raises(MalformedMessage, match=name):
            reads(ServerEvent(event=name, data=data))


def test_the_name_of_an_event_is_one_line() -> None:
    with pytest.raises(ValueError, match="line break"):
        format_event(ServerEvent(event="a\nb", data=""))


@pytest.mark.parametrize("piece", [b"x" * 9_999, b"data: " + b"x" * 9_993 + b"\n"])
def test_an_endless_event_is_refused(piece: bytes) -> None:
    reader = EventReader()
    for _ in range(EVENT_BYTES_MAX // 10_000):
        reader.feed(piece)

    with pytest.raises(MessageTooLarge):
        reader.feed(piece * 2)


def test_comments_may_go_on_for_ever() -> None:
    reader = EventReader()

    for _ in range(300):
        assert reader.feed(b": " + b"x" * 9_997 + b"\n") == []


OURS = payment_event(RECEIPT, {"of": "ours"})


def pieces_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    begins, ends = [0, *places], [*places, len(stream)]
    return [stream[begin:end] for begin, end in zip(begins, ends, strict=True)]


@given(
    st.lists(events.filter(lambda e: e.event != RECEIPT), max_size=4),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.lists(st.integers(0, 500), max_size=12),
)
def test_an_event_of_ours_stands_between_those_of_others(
    sent: list[ServerEvent], line: str, ends: bool, cuts: list[int]
) -> None:
    stream = b"".join(format_event(event) for event in sent)
    stream = stream.replace(b"\n", line.encode())
    if not ends:
        stream = stream.removesuffix(line.encode())
    cutter, out = EventCutter(), b""
    for piece in pieces_of(stream, cuts):
        out += cutter.feed(piece)
        if cutter.between:
            out += OURS
    out += cutter.rest() + OURS
    theirs = [event for event in read_all(out) if event.event != RECEIPT]

    assert theirs == read_all(stream + line.encode() * 2)
    assert len(read_all(out)) > len(theirs)


def test_an_event_that_is_too_large_to_hold_is_passed_on() -> None:
    cutter = EventCutter()
    large = b"data: " + b"x" * HELD_BYTES_MAX

    given_out = [
        (cutter.feed(piece), cutter.between, cutter.holds)
        for piece in (b"data: 1\n", large, b"x\n\ndata")
    ]

    assert given_out == [
        (b"", True, True),
        (b"data: 1\n" + large, False, False),
        (b"x\n\n", True, True),
    ]
    assert cutter.rest() == b"data\n\n"
    assert cutter.rest() == b""


OTHERS = events.filter(lambda event: not event.event.startswith("payment-"))


@given(
    st.lists(st.one_of(OTHERS, st.just(None)), max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.integers(0, 500), max_size=12),
)
def test_events_of_ours_are_taken_out_and_others_left_as_they_were(
    sent: list[ServerEvent | None], line: str, cuts: list[int]
) -> None:
    blocks = [OURS if event is None else format_event(event) for event in sent]
    blocks = [block.replace(b"\n", line.encode()) for block in blocks]
    theirs = b"".join(b for b, event in zip(blocks, sent, strict=True) if event)
    splitter, left, ours = EventSplitter(), b"", 0
    for piece in pieces_of(b"".join(blocks), cuts):
        for part in splitter.feed(piece):
            if isinstance(part, ServerEvent):
                assert part == ServerEvent(event=RECEIPT, data='{"of":"ours"}')
                ours += 1
            else:
                left += part
    left += splitter.rest()

    assert left == theirs
    assert ours == sent.count(None)


def test_a_line_break_that_comes_in_halves_stays_with_its_event() -> None:
    splitter, theirs = EventSplitter(), b"data: 1\r\n\r\n"

    assert splitter.feed(theirs[:-1]) == []
    assert splitter.feed(theirs[-1:] + OURS) == [theirs, read_all(OURS)[0]]


def test_the_inside_of_an_event_is_never_taken_for_one_of_ours() -> None:
    splitter = EventSplitter()
    large = b"data: " + b"x" * HELD_BYTES_MAX + b"\n"

    assert splitter.feed(large) == [large]
    assert splitter.feed(OURS) == [OURS]
    assert splitter.feed(OURS) == [read_all(OURS)[0]]
    assert splitter.feed(b"data: event: payment-receipt\n\n") == [
        b"data: event: payment-receipt\n\n"
    ]
