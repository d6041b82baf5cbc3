"""
Payments read as `parse_payment` reads them, and vouchers of known channels faster.

Two vouchers of one channel for one route differ in an amount and a signature. What
stands around these two is kept with the payment that it was read as: the same around
two other values is the same payment with two other values. So of the base64 of a
header, only the letters of these two are decoded.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from agentpay.errors import MalformedMessage
from agentpay.wire.x402 import (
    Extension,
    PaymentPayload,
    VoucherPayload,
    parse_payment,
)

KNOWN_MAX: Final = 1024
"""How many channels and routes are known; each takes up to the size of a header."""

# At most 38 digits, so below 2**128; a signature of a key, which has 65 bytes.
_VALUES = rb'([1-9][0-9]{0,37})","signature":"0x([0-9a-fA-F]{130})'
_ALONE = re.compile(_VALUES)
_NAMED = re.compile(rb'"maxClaimableAmount":"' + _VALUES + rb'"')


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPayment:
    """A payment that was read; of a voucher that is like a known one, what is new."""

    known: PaymentPayload
    """The payment; or one that differs from it in the two values of its voucher."""
    amount: int | None = None
    """The first of these values; None where `known` is the payment itself."""
    signature: bytes = b""

    @property
    def extensions(self) -> dict[str, Extension]:
        return self.known.extensions

    @property
    def whole(self) -> PaymentPayload:
        """The payment, as `parse_payment` reads it."""
        payload = self.known.payload
        if self.amount is None or not isinstance(payload, VoucherPayload):
            return self.known
        update = {"max_claimable_amount": self.amount, "signature": self.signature}
        voucher = payload.voucher.model_copy(update=update)
        paid = payload.model_copy(update={"voucher": voucher})
        return self.known.model_copy(update={"payload": paid})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """A known payment, and what its header says right beside the two values."""

    payment: PaymentPayload
    before: bytes
    after: bytes

    def values_in(self, text: str) -> tuple[int, bytes] | None:
        """
        The two values in the part of a header that has them; None if something else is.

        Base64 without padding, beside which the same stands, is read as by itself.
        """
        try:
            raw = binascii.a2b_base64(text, strict_mode=True)
        except ValueError:
            return None
        if 4 * len(raw) != 3 * len(text):
            return None
        if not (raw.startswith(self.before) and raw.endswith(self.after)):
            return None
        end = len(raw) - len(self.after)
        found = _ALONE.fullmatch(raw, len(self.before), end)
        return found and (int(found[1]), bytes.fromhex(found[2].decode("ascii")))


class VoucherReader:
    """Reads payments, and remembers what stands around the values of vouchers."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Form] = {}
        """By the text of a header before and after the part that has the values."""
        self._parts: dict[int, tuple[int, int]] = {}
        """Where that part was in the last header of a length."""

    def read(self, header: str) -> ReadPayment:
        """
        Read the `PAYMENT-SIGNATURE` header of a request.

        Raises:
            MalformedMessage: It is not one.
        """
        start, end = self._parts.get(len(header), (0, 0))
        form = self._known.get((header[:start], header[end:]))
        values = form.values_in(header[start:end]) if form is not None else None
        if form is not None and values is not None:
            amount, signature = values
            return ReadPayment(known=form.payment, amount=amount, signature=signature)
        payment = parse_payment(header)
        self._remember(header, payment)
        return ReadPayment(known=payment)

    def _remember(self, header: str, payment: PaymentPayload) -> None:
        raw, payload = base64.b64decode(header, validate=True), payment.payload
        found = _NAMED.search(raw)
        if found is None or not isinstance(payload, VoucherPayload):
            return
        around = raw[: found.start()], raw[found.end() :]
        if not _are_its(around, payment, payload):
            return
        # Three bytes are four letters. The JSON goes on: none of these is padding.
        first, last = found.start(1) // 3, -(-found.end(2) // 3)
        start, end = 4 * first, 4 * last
        if len(self._known) >= KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._parts[len(header)] = start, end
        self._known[header[:start], header[end:]] = _Form(
            payment=payment,
            before=raw[3 * first : found.start(1)],
            after=raw[found.end(2) : 3 * last],
        )


def _are_its(
    around: tuple[bytes, bytes], payment: PaymentPayload, payload: VoucherPayload
) -> bool:
    """
    Whether the values that stand there are the voucher's, and not others of that name.

    Each is one whole string of the JSON, whatever it says: so it is enough to see once
    that others, put there, are read as the voucher's and change nothing else.
    """
    if not around[0].startswith(b'{"'):  # UTF-8, and not UTF-16 that looks like it
        return False
    amount = 1 if payload.voucher.max_claimable_amount > 1 else 2
    put = f'"maxClaimableAmount":"{amount}","signature":"0x{"5a" * 65}"'
    header = base64.b64encode(put.encode().join(around)).decode("ascii")
    try:
        read = parse_payment(header)
    except MalformedMessage:
        return False
    like = ReadPayment(known=payment, amount=amount, signature=b"\x5a" * 65)
    return read == like.whole
