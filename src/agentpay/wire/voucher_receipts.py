"""
Receipts of vouchers, read as `x402.parse_response` and `parallel.read_outcome` read
them, and faster where another of the same channel was read before.

Two receipts of one channel differ in what was charged and in the voucher's amount. What
stands around these is kept with what it was read as: the same bytes around other
amounts are the same receipt with other amounts.
"""

import base64
import re
from dataclasses import dataclass
from typing import Final

from agentpay.core.evolve import evolve
from agentpay.errors import MalformedMessage
from agentpay.types import Hash32
from agentpay.wire import parallel
from agentpay.wire.headers import HEADER_BYTES_MAX
from agentpay.wire.x402 import parse_response

KNOWN_MAX: Final = 256
"""How many are known; each takes up to the size of a header."""

_AMOUNT = r"(0|[1-9][0-9]{0,37})"
"""Below 2**128."""
_VALUES: Final = (
    '"chargedCumulativeAmount":"%s"},"chargedAmount":"%s"},'
    '"extensions":{"parallel-vouchers":{"info":'
    '{"cumulative":"%s","fate":"charged","charged":"%s"'
)
_PATTERN: Final = re.compile((re.escape(_VALUES) % ((_AMOUNT,) * 4)).encode("ascii"))

_Around = tuple[bytes, bytes]
_Amounts = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherReceipt:
    """What a receipt says of a voucher and of its channel."""

    success: bool
    reason: str
    """Why it was refused; empty if it does not say."""
    channel: Hash32 | None
    """The channel that it is about; None where it does not say."""
    total: int | None
    """What was charged on the channel in all."""
    charged: int | None
    named: int | None
    """The voucher that it names."""
    fate: str | None
    """What became of that, and what it was charged; None where it names none."""
    named_charged: int
    repeated: bool


def read_receipt(header: str) -> VoucherReceipt | None:
    """
    The `PAYMENT-RESPONSE` header of an answer to a voucher; None if it cannot be read.
    """
    try:
        receipt = parse_response(header)
    except MalformedMessage:
        return None
    extra, outcome = receipt.extra, parallel.read_outcome(receipt)
    state = extra.channel_state if extra is not None else None
    return VoucherReceipt(
        success=receipt.success,
        reason=receipt.error_reason or "",
        channel=state.channel_id if state is not None else None,
        total=state.charged_cumulative_amount if state is not None else None,
        charged=extra.charged_amount if extra is not None else None,
        named=outcome.cumulative if outcome is not None else None,
        fate=outcome.fate if outcome is not None else None,
        named_charged=outcome.charged if outcome is not None else 0,
        repeated=outcome.repeated if outcome is not None else False,
    )


class ReceiptReader:
    """Reads receipts, and remembers what stands around their amounts."""

    def __init__(self) -> None:
        self._known: dict[_Around, VoucherReceipt] = {}

    def read(self, header: str) -> VoucherReceipt | None:
        """What `read_receipt` says."""
        raw = _bytes_of(header)
        values = _PATTERN.search(raw)
        if values is None:
            return read_receipt(header)
        around = raw[: values.start()], raw[values.end() :]
        if (known := self._known.get(around)) is not None:
            total, charged, named, named_charged = map(int, values.groups())
            return _with(known, (total, charged, named, named_charged))
        receipt = read_receipt(header)
        if receipt is not None and _are_its(around, receipt):
            if len(self._known) >= KNOWN_MAX:
                del self._known[next(iter(self._known))]
            self._known[around] = receipt
        return receipt


def _bytes_of(header: str) -> bytes:
    """What a header holds; nothing where it is for `parse_response` to refuse."""
    if len(header) > HEADER_BYTES_MAX:
        return b""
    try:
        return base64.b64decode(header, validate=True)
    except ValueError:
        return b""


def _with(receipt: VoucherReceipt, amounts: _Amounts) -> VoucherReceipt:
    total, charged, named, named_charged = amounts
    return evolve(
        receipt,
        total=total,
        charged=charged,
        named=named,
        named_charged=named_charged,
    )


def _are_its(around: _Around, receipt: VoucherReceipt) -> bool:
    """
    Whether the amounts that stand there are the receipt's, and not others of that name.

    Each is one whole string of the JSON, whatever it says: so it is enough to see that
    others, put there, are read as the receipt's and change nothing else. Twice, so that
    each is another one than before at least once.
    """
    if not around[0].startswith(b'{"'):  # UTF-8, and not UTF-16 that looks like it
        return False
    for amounts in ((1, 2, 3, 4), (5, 6, 7, 8)):
        put = (_VALUES % amounts).encode("ascii")
        header = base64.b64encode(put.join(around)).decode("ascii")
        if read_receipt(header) != _with(receipt, amounts):
            return False
    return True
