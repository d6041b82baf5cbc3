"""
A charge of MPP: what is signed for its challenge, and what an answer says of it.

Source: draft-evm-charge-00, "Authorization Payload", "Permit2 Payload" and "Receipt
Generation". It is a transfer by EIP-3009 or by Permit2 whose nonce is its challenge's,
so that a challenge is paid once, whoever sends it how often.
"""

from dataclasses import asdict

from agentpay.core.exchange import TransferAnswer
from agentpay.errors import InvariantViolated
from agentpay.evm.charge_permit import ChargePermit, Part
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.session_escrow import charge_nonce, charge_nonce_of_json
from agentpay.evm.transfer import TokenTransfer
from agentpay.payer.offer import ChallengeTerms, Offer
from agentpay.payer.payment import Answer
from agentpay.payer.policy import Policy
from agentpay.types import Address, Hash32
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.credential import Credential, format_credential
from agentpay.wire.mpp.evm_charge import ChargeRequest, parse_charge_request
from agentpay.wire.mpp.evm_write import authorization_payload, permit2_payload
from agentpay.wire.mpp.problem import ProblemKind
from agentpay.wire.mpp.receipt import ChargeReceipt
from agentpay.wire.mpp.source import format_source
from agentpay.wire.x402 import PERMIT2


def unsigned_charge(
    offer: Offer,
    terms: ChallengeTerms,
    *,
    payer: Address,
    host: str,
    policy: Policy,
    now: int,
) -> TokenTransfer | ChargePermit:
    """What pays a challenge of this host: not a second longer than it lives."""
    by_json = host.partition(":")[0] in policy.json_nonces
    nonce_of = charge_nonce_of_json if by_json else charge_nonce
    challenge_hash = nonce_of(terms.challenge.id, terms.challenge.realm)
    over_at = min(terms.expires_at, now + policy.authorization_seconds_max)
    if offer.method == PERMIT2:
        return _unsigned_permit(offer, terms, payer, challenge_hash, over_at)
    authorization = Authorization(
        payer=payer,
        to=offer.pay_to,
        value=offer.amount,
        valid_after=0,
        valid_before=over_at,
        nonce=challenge_hash,
    )
    return TokenTransfer(asset=offer.asset, authorization=authorization, signature=b"")


def _unsigned_permit(
    offer: Offer,
    terms: ChallengeTerms,
    payer: Address,
    challenge_hash: Hash32,
    over_at: int,
) -> ChargePermit:
    """
    Its number is the hash of its challenge, so that the chain takes one for each.

    Permit2 leaves the recipients to the spender, whom the payee named: nobody else
    can send it, and it moves what is asked for at most, wherever that goes.
    """
    asked = terms.request
    if not isinstance(asked, ChargeRequest) or asked.method_details.spender is None:
        raise InvariantViolated("only a charge with a spender is paid by Permit2")
    due = [(asked.recipient, asked.primary_amount)]
    due += [(split.recipient, split.amount) for split in asked.splits]
    return ChargePermit(
        asset=offer.asset,
        payer=payer,
        spender=asked.method_details.spender,
        parts=tuple(Part(to=to, amount=n, permitted=n) for to, n in due),
        nonce=int(challenge_hash, 16),
        deadline=over_at,
        challenge_hash=challenge_hash,
        external_id=asked.external_id or "",
        signature=b"",
    )


def charge_credential(
    signed: TokenTransfer | ChargePermit, challenge: Challenge
) -> str:
    """The value of the header field that the challenge names."""
    if isinstance(signed, TokenTransfer):
        payload = authorization_payload(signed.authorization, signed.signature)
    else:
        payload = permit2_payload(
            token=signed.asset.address,
            transfers=[(part.to, part.amount) for part in signed.parts],
            nonce=signed.nonce,
            deadline=signed.deadline,
            challenge_hash=signed.challenge_hash,
            external_id=signed.external_id,
            signature=signed.signature,
        )
    source = format_source(signed.asset.chain, signed.payer)
    return format_credential(
        Credential(challenge=challenge, payload=payload, source=source)
    )


def challenge_words(terms: ChallengeTerms) -> JsonObject:
    """A challenge, to be answered once more in the very same words."""
    words = {n: v for n, v in asdict(terms.challenge).items() if v is not None}
    return {"challenge": words}


def read_terms(words: JsonObject, *, until: int) -> ChallengeTerms | None:
    """The terms of `challenge_words`; None if they are not of a charge."""
    said = words.get("challenge")
    if not isinstance(said, dict):
        return None
    challenge = Challenge(**{name: str(value) for name, value in said.items()})
    request = parse_charge_request(challenge.decode_request())
    return ChallengeTerms(challenge=challenge, request=request, expires_at=until)


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
