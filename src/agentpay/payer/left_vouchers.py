"""
Vouchers of parallel channels whose requests had no answer, while their agent runs.

The next request that is the same presents the same one, and its payee tells the answer
that it kept (C8). One that is found to have bought nothing is forgotten: it was burnt.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from agentpay.payer.channel_kind import VoucherPayment
from agentpay.payer.payment import Target

_LEFT_MAX = 4096
_ANSWER_KEPT_SECONDS = 3600.0


class LeftVouchers:
    """Which voucher was signed for what, the oldest first; each is taken once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[str, float, VoucherPayment]] = OrderedDict()

    def add(self, request: str, payment: VoucherPayment) -> None:
        """Nobody had the answer to this request."""
        self._left[payment.id] = (request, self._clock(), payment)
        if len(self._left) > _LEFT_MAX:
            self._left.popitem(last=False)

    def take(self, target: Target) -> VoucherPayment | None:
        """What was signed for the same request, if an answer may be kept still."""
        if not self._left:
            return None
        request = target.request
        until = self._clock() - _ANSWER_KEPT_SECONDS
        for wanted, since, payment in self._left.values():
            if wanted == request and since >= until:
                del self._left[payment.id]
                return payment
        return None

    def drop(self, payment: VoucherPayment) -> None:
        """It bought nothing, and never will."""
        self._left.pop(payment.id, None)
