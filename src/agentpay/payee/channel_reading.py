"""
What a payment on a channel says, as values that can be checked.

Vouchers of a known channel for a known route differ in an amount and a signature: what
else they say is read once.
"""

from dataclasses import dataclass

from agentpay.core.evolve import evolve
from agentpay.errors import InvariantViolated
from agentpay.evm.batch_settlement import channel_id
from agentpay.payee.books import ChannelPayment
from agentpay.payee.offers import PayeeSettings, accepted
from agentpay.payee.pricing import Order, Terms
from agentpay.wire import parallel
from agentpay.wire.x402 import (
    DepositPayload,
    ExactPayload,
    PaymentPayload,
    Permit2Payload,
    RefundPayload,
)
from agentpay.wire.x402_deposits import read_config
from agentpay.wire.x402_vouchers import KNOWN_MAX, ReadPayment

_Place = tuple[int, tuple[str, ...], Order, str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What a known payment says where it was last used, and on which terms."""

    known: PaymentPayload
    """Held, so that nothing else has its identity."""
    settings: PayeeSettings
    place: _Place
    says: ChannelPayment


class ChannelReading:
    """Reads the channel payments of one payee."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def read(
        self, payment: ReadPayment, terms: Terms, settings: PayeeSettings
    ) -> ChannelPayment:
        """What a payment says, on the terms of what is asked for."""
        if payment.amount is None:
            return read_payment(payment.whole, terms, settings)
        known = self._known.get(id(payment.known))
        place = (
            *(terms.maximum, terms.schemes, terms.order),
            *(terms.url, terms.bound),
        )
        if known is None or known.settings is not settings or known.place != place:
            if len(self._known) >= KNOWN_MAX:
                del self._known[next(iter(self._known))]
            known = self._known[id(payment.known)] = _Known(
                known=payment.known,
                settings=settings,
                place=place,
                says=read_payment(payment.whole, terms, settings),
            )
        return evolve(
            known.says, cumulative=payment.amount, signature=payment.signature
        )


def read_payment(
    payment: PaymentPayload, terms: Terms, settings: PayeeSettings
) -> ChannelPayment:
    """
    The same, whatever was read before.

    Raises:
        InvariantViolated: It is a transfer.
    """
    payload = payment.payload
    if isinstance(payload, ExactPayload | Permit2Payload):
        raise InvariantViolated("a transfer is read as a payment on a channel")
    config, voucher = read_config(payload.channel_config), payload.voucher
    return ChannelPayment(
        config=config,
        channel=channel_id(config, settings.asset.chain),
        named=voucher.channel_id,
        cumulative=voucher.max_claimable_amount,
        signature=voucher.signature,
        agreed=accepted(settings, payment, terms) is not None,
        query=parallel.is_query(payment.extensions),
        extensions=payment.extensions,
        deposit=payload if isinstance(payload, DepositPayload) else None,
        refunds=isinstance(payload, RefundPayload),
        part=payload.amount if isinstance(payload, RefundPayload) else None,
    )
