"""
What a payer signs and says for a session of MPP: vouchers, deposits, and their frame.

Source: draft-evm-session-00, "Voucher Payload", "Close Payload" and "Channel State".
"""

from agentpay.core.payer_channel import PendingDeposit
from agentpay.errors import InvariantViolated, MalformedMessage
from agentpay.evm.session_deposit import (
    Permit2SessionDeposit,
    SessionDeposit,
    TokenSessionDeposit,
)
from agentpay.evm.session_escrow import SessionConfig, voucher_digest
from agentpay.payer.keys import PayerKeys, sign_by_wallet
from agentpay.payer.payment import Answer
from agentpay.payer.signing import signs_as_contract
from agentpay.ports import Chain
from agentpay.records import PayerRecord, session_config
from agentpay.signers.smart_wallet import SmartWallet
from agentpay.types import Asset
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp import evm_write as write
from agentpay.wire.mpp.challenge import (
    WWW_AUTHENTICATE,
    Challenge,
    parse_challenges,
)
from agentpay.wire.mpp.evm_charge import METHOD
from agentpay.wire.mpp.evm_session import SESSION, parse_session_request
from agentpay.wire.mpp.evm_session_terms import escrow_of
from agentpay.wire.x402 import EIP3009, PERMIT2

BY_AUTHORIZATION = "authorization"
BY_PERMIT2 = "permit2"


async def sign_session_voucher(
    keys: PayerKeys, record: PayerRecord, cumulative: int
) -> bytes:
    """
    A voucher, which every payee can check by its key alone.

    Raises:
        ChannelUnusable: We do not hold the key of its vouchers.
        ConfigurationError: The key of its vouchers is that of a contract.
    """
    escrow = session_config(record).escrow
    signer = keys.of(record)
    digest = voucher_digest(record.channel, cumulative, escrow)
    signature = await signer.sign_digest(digest, chain=record.chain)
    if isinstance(signer, SmartWallet) or len(signature) != 65:
        raise signs_as_contract(signer.address)
    return signature


def unsigned_session_deposits(
    record: PayerRecord, asset: Asset, pending: PendingDeposit
) -> dict[str, SessionDeposit]:
    """A deposit, by each way to sign it; the first one that arrives opens."""
    config = session_config(record)
    opens = not record.ledger.balance
    deposits: dict[str, SessionDeposit] = {
        PERMIT2: Permit2SessionDeposit(
            config=config,
            asset=asset,
            payer=config.payer,
            amount=pending.amount,
            nonce=int(pending.salt, 16),
            deadline=pending.valid_before,
            opens=opens,
            signature=b"",
        )
    }
    if asset.eip3009:
        deposits[EIP3009] = TokenSessionDeposit(
            config=config,
            asset=asset,
            payer=config.payer,
            amount=pending.amount,
            valid_after=0,
            valid_before=pending.valid_before,
            signature=b"",
            top_up_salt=None if opens else pending.salt,
        )
    return deposits


async def sign_session_deposit(
    keys: PayerKeys, deposit: SessionDeposit, chain: Chain
) -> JsonObject:
    """
    A deposit, signed, as it goes along with a voucher.

    Raises:
        KeyElsewhere: The wallet is only watched.
        ConfigurationError: The wallet is a contract that we cannot deploy.
        ChainError: The chain could not be asked whether it is deployed.
    """
    signature = await sign_by_wallet(keys.wallet, deposit.digest(), chain)
    terms = deposit.config.terms
    if isinstance(deposit, TokenSessionDeposit):
        kind, authorization = (
            BY_AUTHORIZATION,
            write.authorization_fields(deposit.authorization),
        )
    elif not isinstance(deposit, Permit2SessionDeposit):
        raise InvariantViolated(f"no way to carry {deposit}")
    elif deposit.opens:
        kind, authorization = (
            BY_PERMIT2,
            write.open_permit(
                payer=deposit.payer,
                token=deposit.asset.address,
                amount=deposit.amount,
                nonce=deposit.nonce,
                deadline=deposit.deadline,
                payee=terms.payee,
                salt=terms.salt,
                authorized_signer=terms.authorized_signer,
            ),
        )
    else:
        kind, authorization = (
            BY_PERMIT2,
            write.top_up_permit(
                payer=deposit.payer,
                token=deposit.asset.address,
                amount=deposit.amount,
                nonce=deposit.nonce,
                deadline=deposit.deadline,
                channel=deposit.config.channel,
            ),
        )
    if deposit.opens:
        return write.open_deposit(
            kind,
            authorization=authorization,
            signature=signature,
            salt=terms.salt,
            authorized_signer=terms.authorized_signer,
        )
    salt = deposit.top_up_salt if isinstance(deposit, TokenSessionDeposit) else None
    return write.top_up_deposit(
        kind, authorization=authorization, signature=signature, salt=salt
    )


def frames(challenge: Challenge, config: SessionConfig) -> bool:
    """Whether a challenge is for this very session, so that its vouchers go into it."""
    if (challenge.method, challenge.intent) != (METHOD, SESSION):
        return False
    try:
        asked = parse_session_request(challenge.decode_request())
    except MalformedMessage:
        return False
    terms = config.terms
    said = asked.recipient, asked.currency, escrow_of(asked)
    return said == (terms.payee, terms.token, config.escrow)


def framed_in(answer: Answer, config: SessionConfig) -> Challenge | None:
    """The challenge of an answer that is for this very session, if it has one."""
    try:
        said = answer.headers.get(WWW_AUTHENTICATE.lower(), "")
        challenges = parse_challenges([said])
    except MalformedMessage:
        return None
    return next((c for c in challenges if frames(c, config)), None)
