"""
What a payer's channel belongs to, so that no other origin, payee or key shares it.
"""

from dataclasses import dataclass
from typing import TypeAlias

from agentpay.errors import ChannelUnusable
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.payer.offer import ChannelTerms, Offer
from agentpay.payer.payment import Target
from agentpay.records import PayerRecord
from agentpay.types import Address, Asset, ChainId


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKey:
    """The same of a session of MPP's."""

    origin: str
    chain: ChainId
    authorized_signer: Address
    payee: Address
    token: Address
    escrow: Address
    tagged: bool


Key: TypeAlias = ChannelKey | SessionKey


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


def is_lane(record: PayerRecord) -> bool:
    """Whether its payee follows x402 alone, and names no fates."""
    return isinstance(record.config, ChannelConfig) and not record.ledger.tagged


def token_in(record: PayerRecord) -> Address:
    """What a channel holds."""
    config = record.config
    return config.token if isinstance(config, ChannelConfig) else config.terms.token


def asset_in(record: PayerRecord, assets: tuple[Asset, ...]) -> Asset:
    """
    The same, as we know it.

    Raises:
        ChannelUnusable: It is none of these.
    """
    for asset in assets:
        if (asset.chain, asset.address) == (record.chain, token_in(record)):
            return asset
    raise ChannelUnusable(f"channel {record.channel} is in a token we do not trust")
