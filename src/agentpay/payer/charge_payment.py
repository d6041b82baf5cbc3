"""
A charge of MPP: what is signed for its challenge, and what an answer says of it.

Source: draft-evm-charge-00, "Authorization Payload" and "Receipt Generation". It is an
EIP-3009 transfer whose nonce is its challenge's, so that a challenge is paid once,
whoever sends it how often.
"""

from agentpay.core.exchange import TransferAnswer
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.session_escrow import charge_nonce, charge_nonce_of_json
from agentpay.evm.transfer import TokenTransfer
from agentpay.payer.offer import ChallengeTerms, Offer
from agentpay.payer.payment import Answer
from agentpay.payer.policy import Policy
from agentpay.types import Address
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.credential import Credential, format_credential
from agentpay.wire.mpp.evm_write import authorization_payload
from agentpay.wire.mpp.problem import ProblemKind
from agentpay.wire.mpp.receipt import ChargeReceipt
from agentpay.wire.mpp.source import format_source


def charge_authorization(
    offer: Offer,
    terms: ChallengeTerms,
    *,
    payer: Address,
    host: str,
    policy: Policy,
    now: int,
) -> Authorization:
    """What pays a challenge of this host: not a second longer than it lives."""
    by_json = host.partition(":")[0] in policy.json_nonces
    nonce_of = charge_nonce_of_json if by_json else charge_nonce
    latest = now + policy.authorization_seconds_max
    return Authorization(
        payer=payer,
        to=offer.pay_to,
        value=offer.amount,
        valid_after=0,
        valid_before=min(terms.expires_at, latest),
        nonce=nonce_of(terms.challenge.id, terms.challenge.realm),
    )


def charge_credential(signed: TokenTransfer, challenge: Challenge) -> str:
    """The value of the header field that the challenge names."""
    return format_credential(
        Credential(
            challenge=challenge,
            payload=authorization_payload(signed.authorization, signed.signature),
            source=format_source(signed.asset.chain, signed.payer),
        )
    )


def read_charge_answer(
    answer: Answer, read: TransferAnswer, terms: ChallengeTerms
) -> TransferAnswer:
    """
    What an answer to a charge says; `read` is what it says in words of x402, which our
    own paywall answers in where MPP has none.

    A receipt counts if it is for this challenge. It is never more than a claim: the
    money is counted as gone, and the chain tells what moved.
    """
    problem = answer.problem
    kind = problem.kind if problem is not None else None
    status = answer.status
    if kind is ProblemKind.CREDENTIAL_REPLAYED:
        status = 402  # pympp's 403: it was taken before, which the chain knows
    return TransferAnswer(
        status=status,
        success=True if _is_paid(answer, terms) else read.success,
        pending=read.pending,
        offered=read.offered or kind is not None,
        problem=read.problem,
    )


def _is_paid(answer: Answer, terms: ChallengeTerms) -> bool:
    receipt = answer.mpp_receipt(ChargeReceipt)
    if receipt is None:
        return False
    chain = terms.request.method_details.chain_id
    ours = receipt.challenge_id in (None, terms.challenge.id)
    return ours and receipt.chain_id in (None, chain)
