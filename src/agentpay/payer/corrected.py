"""
Reads the 402 of a strict payee: what it says was charged on our channel in all, and
what it offers for the same channel now.

Source: x402 `scheme_batch_settlement_evm.md`, "Corrective 402".
"""

from agentpay.core.exchange import Corrected
from agentpay.errors import MalformedMessage
from agentpay.evm.batch_settlement import voucher_digest
from agentpay.evm.signature import BadSignature, recover
from agentpay.payer.payment import Answer
from agentpay.payer.x402_offers import without_state
from agentpay.records import PayerRecord, channel_config
from agentpay.types import parse_amount
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    PAYMENT_REQUIRED,
    Requirements,
    parse_payment_required,
)


def read_corrected(answer: Answer, record: PayerRecord, spent: int) -> Corrected | None:
    """
    The total of our channel: no more than we have `spent`, or proven by a voucher that
    we really signed. None if the answer has none like that.
    """
    for requirements, _ in _offers(answer):
        if requirements.scheme == BATCH_SETTLEMENT:
            found = _read(requirements, record, spent)
            if found is not None:
                return found
    return None


def read_offered(answer: Answer, record: PayerRecord) -> list[JsonObject]:
    """The words of each offer, at whatever price, that our channel is for."""
    return [
        without_state(words)
        for requirements, words in _offers(answer)
        if _is_for(requirements, record)
    ]


def _is_for(requirements: Requirements, record: PayerRecord) -> bool:
    config, extra = channel_config(record), requirements.extra
    authorizer = str(extra.get("receiverAuthorizer")).lower()
    return (
        requirements.scheme == BATCH_SETTLEMENT
        and (requirements.network, requirements.asset) == (record.chain, config.token)
        and (requirements.pay_to, authorizer)
        == (config.receiver, config.receiver_authorizer)
        and extra.get("withdrawDelay") == config.withdraw_delay
    )


def _offers(answer: Answer) -> list[tuple[Requirements, JsonObject]]:
    header = answer.headers.get(PAYMENT_REQUIRED.lower())
    if header is None:
        return []
    try:
        return parse_payment_required(header).readable_offers()
    except MalformedMessage:
        return []


def _read(
    requirements: Requirements, record: PayerRecord, spent: int
) -> Corrected | None:
    state = requirements.extra.get("channelState")
    if not isinstance(state, dict):
        return None
    if str(state.get("channelId", record.channel)).lower() != record.channel:
        return None
    try:
        total = parse_amount(str(state.get("chargedCumulativeAmount")))
    except ValueError:
        return None
    voucher = _ours(requirements, record)
    if total > spent and (voucher is None or total > voucher):
        return None
    return Corrected(total=total, voucher=voucher)


def _ours(requirements: Requirements, record: PayerRecord) -> int | None:
    """The amount of the voucher that it shows, if our key signed that."""
    proof = requirements.extra.get("voucherState")
    if not isinstance(proof, dict):
        return None
    try:
        amount = parse_amount(str(proof.get("signedMaxClaimable")))
        signature = bytes.fromhex(str(proof.get("signature")).removeprefix("0x"))
        digest = voucher_digest(record.channel, amount, record.chain)
        signer = recover(digest, signature)
    except (ValueError, BadSignature):
        return None
    return amount if signer == channel_config(record).payer_authorizer else None
