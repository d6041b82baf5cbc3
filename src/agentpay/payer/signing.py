"""
Credentials of a payer: what is signed, and the header that carries it.
"""

from agentpay.core.payer_channel import PendingDeposit
from agentpay.errors import ConfigurationError
from agentpay.evm.addresses import ERC3009_COLLECTOR
from agentpay.evm.batch_settlement import deposit_nonce, voucher_digest
from agentpay.evm.eip3009 import Authorization, receive_digest, transfer_digest
from agentpay.payer.keys import PayerKeys
from agentpay.payer.offer import Offer
from agentpay.ports import Signer
from agentpay.records import PayerRecord
from agentpay.types import ZERO_ADDRESS, Asset
from agentpay.wire import parallel
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject, encode_json
from agentpay.wire.parallel import ParallelTerms


async def sign_voucher(
    keys: PayerKeys,
    record: PayerRecord,
    cumulative: int,
    *,
    kind: str,
    url: str,
    words: JsonObject,
    query: bool = False,
    deposit: tuple[Asset, PendingDeposit] | None = None,
) -> str:
    """
    The credential of a channel: `kind` is `voucher`, `deposit` or `refund`.

    `words` are the offer's own, echoed. With `query` it only asks what became of it.

    Raises:
        ChannelUnusable: We do not hold the key of its vouchers.
        KeyElsewhere: The deposit needs a wallet that is only watched.
        ConfigurationError: The key of its vouchers is that of a contract.
    """
    signature = await _sign(keys, record, cumulative)
    payload = write.voucher_payload(
        kind, record.config, record.channel, cumulative, signature
    )
    if deposit is not None:
        payload["deposit"] = await _sign_deposit(keys.wallet, record, *deposit)
    extensions: JsonObject = {}
    ledger = record.ledger
    if ledger.tagged:
        terms = ParallelTerms(window=ledger.window, in_flight_max=ledger.in_flight_max)
        extensions = parallel.echo(terms, query=query)
    message = write.payment(
        accepted=words, payload=payload, url=url, extensions=extensions
    )
    return encode_json(message)


async def _sign(keys: PayerKeys, record: PayerRecord, cumulative: int) -> bytes:
    digest = voucher_digest(record.channel, cumulative, record.chain)
    signature = await keys.of(record).sign_digest(digest, chain=record.chain)
    if record.config.payer_authorizer != ZERO_ADDRESS and len(signature) != 65:
        raise ConfigurationError(
            f"{record.config.payer_authorizer} signs as a contract, which vouchers"
            " cannot be checked by: give the agent a voucher_key of its own"
        )
    return signature


async def _sign_deposit(
    signer: Signer, record: PayerRecord, asset: Asset, deposit: PendingDeposit
) -> JsonObject:
    authorization = Authorization(
        payer=record.config.payer,
        to=ERC3009_COLLECTOR,
        value=deposit.amount,
        valid_after=0,
        valid_before=deposit.valid_before,
        nonce=deposit_nonce(record.channel, deposit.salt),
    )
    digest = receive_digest(authorization, asset)
    signature = await signer.sign_digest(digest, chain=record.chain)
    return write.deposit_part(
        amount=deposit.amount,
        valid_before=deposit.valid_before,
        salt=deposit.salt,
        signature=signature,
    )


async def sign_transfer(
    signer: Signer, authorization: Authorization, offer: Offer, *, url: str
) -> str:
    """The credential of one `exact` payment."""
    digest = transfer_digest(authorization, offer.asset)
    signature = await signer.sign_digest(digest, chain=offer.asset.chain)
    payload = write.exact_payload(authorization, signature)
    message = write.payment(
        accepted=offer.words, payload=payload, url=url, extensions={}
    )
    return encode_json(message)
