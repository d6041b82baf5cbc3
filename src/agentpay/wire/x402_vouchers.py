"""
Payments read as `parse_payment` reads them, and vouchers of known channels faster.

Two vouchers of one channel for one route differ in an amount and a signature. What
stands around these two is kept with the payment that it was read as: the same bytes
around two other values are the same payment with two other values.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from agentpay.errors import MalformedMessage
from agentpay.wire.headers import HEADER_BYTES_MAX
from agentpay.wire.x402 import (
    Extension,
    PaymentPayload,
    VoucherPayload,
    parse_payment,
)

KNOWN_MAX: Final = 1024
"""How many channels and routes are known; each takes up to the size of a header."""

# At most 38 digits, so below 2**128; a signature of a key, which has 65 bytes.
_VALUES = re.compile(
    rb'"maxClaimableAmount":"([1-9][0-9]{0,37})","signature":"0x([0-9a-fA-F]{130})"'
)

_Around = tuple[bytes, bytes]


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


class VoucherReader:
    """Reads payments, and remembers what stands around the values of vouchers."""

    def __init__(self) -> None:
        self._known: dict[_Around, PaymentPayload] = {}

    def read(self, header: str) -> ReadPayment:
        """
        Read the `PAYMENT-SIGNATURE` header of a request.

        Raises:
            MalformedMessage: It is not one.
        """
        raw = _bytes_of(header)
        values = _VALUES.search(raw)
        if values is None:
            return ReadPayment(known=parse_payment(header))
        around = raw[: values.start()], raw[values.end() :]
        if (known := self._known.get(around)) is not None:
            signature = bytes.fromhex(values[2].decode("ascii"))
            return ReadPayment(known=known, amount=int(values[1]), signature=signature)
        payment = parse_payment(header)
        payload = payment.payload
        if isinstance(payload, VoucherPayload) and _are_its(around, payment, payload):
            if len(self._known) >= KNOWN_MAX:
                del self._known[next(iter(self._known))]
            self._known[around] = payment
        return ReadPayment(known=payment)


def _bytes_of(header: str) -> bytes:
    """What a header holds; nothing where it is for `parse_payment` to refuse."""
    if len(header) > HEADER_BYTES_MAX:
        return b""
    try:
        return base64.b64decode(header, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _are_its(around: _Around, payment: PaymentPayload, payload: VoucherPayload) -> bool:
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
