"""The fast reader of receipts says what the plain one says, of whatever it reads."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.types import Address, ChainId, Hash32
from agentpay.wire import voucher_receipts
from agentpay.wire.headers import encode_json
from agentpay.wire.voucher_receipts import KNOWN_MAX, ReceiptReader, read_receipt
from agentpay.wire.x402_receipt import charged_voucher

ODD = ("0", "00", "01", "-1", "1" * 38, "9" * 39, "0x1", " 1", "1\u0661", "", 1, None)
amounts = st.integers(0, 10**38 - 1).map(str) | st.sampled_from(ODD)
four = st.tuples(amounts, amounts, amounts, amounts)


def charged(
    total: int = 30, paid: int = 10, cumulative: int | None = 40, *, balance: int = 99
) -> str:
    """As a payee of ours says it."""
    return charged_voucher(
        channel=Hash32("0x" + "ab" * 32),
        chain=ChainId(84532),
        payer=Address("0x" + "cd" * 20),
        balance=balance,
        claimed=0,
        withdraw_requested_at=0,
        refund_nonce=0,
        total=total,
        charged=paid,
        cumulative=cumulative,
    )


SAMPLE: Any = json.loads(base64.b64decode(charged()))


def said(values: tuple[Any, ...], **more: Any) -> str:
    total, paid, cumulative, named = values
    state = {**SAMPLE["extra"]["channelState"], "chargedCumulativeAmount": total}
    info = {"cumulative": cumulative, "fate": "charged", "charged": named}
    message = {
        **SAMPLE,
        "extra": {"channelState": state, "chargedAmount": paid},
        "extensions": {"parallel-vouchers": {"info": {**info, **more}}},
    }
    return encode_json(message)


@given(st.lists(st.integers(0, 2**120), min_size=1, max_size=6))
def test_receipts_of_a_payee_of_ours_are_read_fast(totals: list[int]) -> None:
    reader = ReceiptReader()
    first = charged()
    assert reader.read(first) == read_receipt(first)
    assert len(reader._known) == 1
    for total in totals:
        header = charged(total, total // 2, total + 1)

        assert reader.read(header) == read_receipt(header)
    assert len(reader._known) == 1


@given(st.lists(st.tuples(four, st.booleans(), st.booleans()), max_size=6))
def test_one_after_another_is_read_as_it_would_be_alone(
    receipts: list[tuple[tuple[Any, ...], bool, bool]],
) -> None:
    reader = ReceiptReader()
    for values, repeated, more in receipts:
        header = said(values, **({"repeated": repeated} if more else {}))

        assert reader.read(header) == read_receipt(header)


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), max_size=6))
def test_a_receipt_that_is_spoilt_anywhere_is_read_as_it_would_be_alone(
    spoilt: list[tuple[int, int]],
) -> None:
    reader = ReceiptReader()
    reader.read(charged())
    for place, flip in spoilt:
        raw = bytearray(base64.b64decode(charged(total=50, paid=5, cumulative=77)))
        raw[place % len(raw)] ^= flip
        header = base64.b64encode(raw).decode()

        assert reader.read(header) == read_receipt(header)


VALUES = voucher_receipts._VALUES


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"extra":{"channelState":{', '}}},"x":1,'),  # said twice: the last counts
        ('"x":{"y":{', "}}},"),  # members of something else
        ('"x":{"y":{"z\\', "}}},"),  # a name that only ends like it
    ],
)
def test_amounts_of_the_same_names_elsewhere_are_not_the_receipts(
    before: str, after: str
) -> None:
    reader = ReceiptReader()
    text = json.dumps(SAMPLE, separators=(",", ":"))
    for amount in (5, 6, 7):
        decoy = before + VALUES % ((amount,) * 4) + after
        header = base64.b64encode(("{" + decoy + text[1:]).encode()).decode()

        assert reader.read(header) == read_receipt(header)


@pytest.mark.parametrize("header", ["", "%", "x" * 20_000, encode_json({"success": 1})])
def test_what_is_no_receipt_is_none(header: str) -> None:
    assert ReceiptReader().read(header) is None


def test_what_is_remembered_is_bounded() -> None:
    reader = ReceiptReader()
    for balance in range(KNOWN_MAX + 10):
        header = charged(balance=balance)

        assert reader.read(header) == read_receipt(header)
    assert len(reader._known) <= KNOWN_MAX
