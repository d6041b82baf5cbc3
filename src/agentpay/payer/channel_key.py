"""
What a payer's channel belongs to, so that no other origin, payee or key shares it.
"""

from dataclasses import dataclass

from agentpay.payer.offer import ChannelTerms, Offer
from agentpay.payer.payment import Target
from agentpay.records import PayerRecord, channel_config
from agentpay.types import Address, ChainId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelKey:
    """What a channel belongs to (rule 11); another origin or key never shares it."""

    origin: str
    chain: ChainId
    payer_authorizer: Address
    pay_to: Address
    authorizer: Address
    token: Address
    withdraw_delay: int
    tagged: bool


def key_of(
    offer: Offer, terms: ChannelTerms, target: Target, payer_authorizer: Address
) -> ChannelKey:
    """What a channel for an offer belongs to."""
    return ChannelKey(
        origin=target.origin,
        chain=offer.asset.chain,
        payer_authorizer=payer_authorizer,
        pay_to=offer.pay_to,
        authorizer=terms.authorizer,
        token=offer.asset.address,
        withdraw_delay=terms.withdraw_delay,
        tagged=terms.parallel is not None,
    )


def key_in(record: PayerRecord) -> ChannelKey:
    """What a channel that we have belongs to."""
    config = channel_config(record)
    return ChannelKey(
        origin=record.origin,
        chain=record.chain,
        payer_authorizer=config.payer_authorizer,
        pay_to=config.receiver,
        authorizer=config.receiver_authorizer,
        token=config.token,
        withdraw_delay=config.withdraw_delay,
        tagged=record.ledger.tagged,
    )
