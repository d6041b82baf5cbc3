"""
What pays for an offer by one transfer, before it is signed: the transfer, and the words
that its credential says beside it.
"""

import secrets
from typing import TypeAlias

from agentpay.evm.charge_permit import ChargePermit
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.permit2 import PermitTransfer
from agentpay.evm.permit2_signed import Permit2Transfer
from agentpay.evm.transfer import TokenTransfer
from agentpay.payer.charge_payment import challenge_words, unsigned_charge
from agentpay.payer.offer import Offer
from agentpay.payer.policy import Policy
from agentpay.payer.signing import transfer_words
from agentpay.types import Address, Hash32
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import PERMIT2
from agentpay.wire.x402_approvals import SignedApprovals

Unsigned: TypeAlias = TokenTransfer | Permit2Transfer | ChargePermit


def unsigned_transfer(
    offer: Offer, *, payer: Address, host: str, policy: Policy, now: int
) -> Unsigned:
    """What pays for one request to a host, and no other ever."""
    if offer.mpp is not None:
        return unsigned_charge(
            offer, offer.mpp, payer=payer, host=host, policy=policy, now=now
        )
    seconds = min(offer.max_timeout_seconds, policy.authorization_seconds_max)
    valid_before = now + max(seconds, 1)
    if offer.method == PERMIT2:
        permitted = PermitTransfer(
            payer=payer,
            token=offer.asset.address,
            amount=offer.amount,
            nonce=secrets.randbits(256),
            deadline=valid_before,
            to=offer.pay_to,
            valid_after=0,
            facilitator=offer.facilitator,
        )
        return Permit2Transfer(asset=offer.asset, transfer=permitted, signature=b"")
    authorization = Authorization(
        payer=payer,
        to=offer.pay_to,
        value=offer.amount,
        valid_after=0,
        valid_before=valid_before,
        nonce=Hash32.of(secrets.token_bytes(32)),
    )
    return TokenTransfer(asset=offer.asset, authorization=authorization, signature=b"")


def words_for(
    offer: Offer, name: str, *, along: SignedApprovals | None = None
) -> JsonObject:
    """
    The words of a payment with that name, if it has any, and with what goes along. A
    charge is named by its challenge.
    """
    if offer.mpp is not None:
        return challenge_words(offer.mpp)
    return transfer_words(offer, name, approvals=along or SignedApprovals())
