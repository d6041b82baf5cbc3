"""
Credentials of a payer: what is signed, and the header that carries it.
"""

import secrets
from collections import OrderedDict
from typing import Final

from agentpay.core.payer_channel import PendingDeposit
from agentpay.errors import ConfigurationError
from agentpay.evm.batch_settlement import voucher_digest
from agentpay.evm.deposit import Deposit, TokenDeposit
from agentpay.evm.permit2_signed import Permit2Deposit
from agentpay.evm.transfer import Transfer
from agentpay.payer.keys import PayerKeys, sign_by_wallet
from agentpay.payer.offer import Offer
from agentpay.ports import Chain
from agentpay.records import PayerRecord, channel_config
from agentpay.signers.smart_wallet import SmartWallet
from agentpay.types import ZERO_ADDRESS, Address, Asset, Hash32
from agentpay.wire import parallel, payment_identifier
from agentpay.wire import x402_write as write
from agentpay.wire.echo import echo
from agentpay.wire.headers import JsonObject, encode_json
from agentpay.wire.parallel import ParallelTerms
from agentpay.wire.voucher_form import VoucherForm, voucher_form
from agentpay.wire.x402 import EIP3009, PAYMENT_SIGNATURE, PERMIT2
from agentpay.wire.x402_approvals import SignedApprovals
from agentpay.wire.x402_deposits import deposit_part
from agentpay.wire.x402_transfers import transfer_payload
from agentpay.wire.x402_v1 import X_PAYMENT
from agentpay.wire.x402_v1_pay import first_payment

_NO_APPROVALS: Final = SignedApprovals()
_FORMS_MAX: Final = 256


async def sign_voucher(
    keys: PayerKeys,
    record: PayerRecord,
    cumulative: int,
    *,
    kind: str,
    url: str,
    words: JsonObject,
    query: bool = False,
    extensions: JsonObject | None = None,
    deposit: tuple[Deposit, Chain] | None = None,
    about: JsonObject | None = None,
) -> str:
    """
    The credential of a channel: `kind` is `voucher`, `deposit` or `refund`.

    `words` are the offer's own, echoed, `extensions` what is said back of those it came
    with, and `about` what it said of the resource, which catalogues take from payments
    (x402 `specs/extensions/bazaar.md`, "Service Metadata on `resource`"). With `query`
    it only asks what became of it.

    Raises:
        ChannelUnusable: We do not hold the key of its vouchers, or it is a session of
            MPP's.
        KeyElsewhere: The deposit needs a wallet that is only watched.
        ConfigurationError: The key of its vouchers is that of a contract.
    """
    config = channel_config(record)
    signature = await sign_amount(keys, record, cumulative)
    payload = write.voucher_payload(kind, config, record.channel, cumulative, signature)
    if deposit is not None:
        unsigned, chain = deposit
        signature = await sign_by_wallet(keys.wallet, unsigned.digest(), chain)
        payload["deposit"] = deposit_part(unsigned, signature)
    said = dict(extensions or {})
    if record.ledger.tagged:
        said |= parallel.echo(_terms(record), query=query)
    message = write.payment(
        accepted=words, payload=payload, url=url, extensions=said, about=about
    )
    return encode_json(message)


def is_named(offer: Offer, *, tagged: bool) -> bool:
    """
    Whether each payment under an offer gets a name of its own, so that it is told its
    answer again if that is lost.

    On a parallel channel a voucher is its own name, and a second one would cost its
    payee a write: it has none unless one is required.
    """
    offered = offer.extensions
    if payment_identifier.KEY not in offered:
        return False
    return not tagged or payment_identifier.is_required(offered)


def new_name() -> str:
    """A payment's own, which nobody can guess (x402's `payment-identifier`)."""
    return f"pay_{secrets.token_hex(16)}"


def answer_extensions(
    offer: Offer,
    *,
    approvals: SignedApprovals = _NO_APPROVALS,
    tagged: bool = False,
    name: str = "",
) -> JsonObject:
    """
    What a payment says back of an offer's extensions, and its name if it has one: this
    one, or a new one.
    """
    offered = offer.extensions
    ours = approvals.info(offer.asset)
    key = payment_identifier.KEY
    if is_named(offer, tagged=tagged):
        ours[key] = payment_identifier.echo(offered[key], name or new_name())
    elif key in offered:
        offered = {n: words for n, words in offered.items() if n != key}
    return echo(offered, ours)


class VoucherForms:
    """The forms of vouchers that were written lately, by one payer."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[Hash32, str], tuple[Offer, VoucherForm]] = (
            OrderedDict()
        )

    def form(self, record: PayerRecord, offer: Offer, *, url: str) -> VoucherForm:
        """The form of a channel's vouchers for a URL under an offer."""
        key = (record.channel, url)
        kept = self._made.get(key)
        if kept is not None and kept[0] is offer:
            return kept[1]
        said, ledger = (
            answer_extensions(offer, tagged=record.ledger.tagged),
            record.ledger,
        )
        if ledger.tagged:
            said |= parallel.echo(_terms(record))
        made = voucher_form(
            channel_config(record),
            record.channel,
            words=offer.words,
            url=url,
            extensions=said,
        )
        self._made[key] = offer, made
        self._made.move_to_end(key)
        if len(self._made) > _FORMS_MAX:
            self._made.popitem(last=False)
        return made


def _terms(record: PayerRecord) -> ParallelTerms:
    ledger = record.ledger
    return ParallelTerms(window=ledger.window, in_flight_max=ledger.in_flight_max)


async def sign_amount(keys: PayerKeys, record: PayerRecord, cumulative: int) -> bytes:
    """
    The signature of a channel's voucher.

    Raises: as `sign_voucher`.
    """
    named = channel_config(record).payer_authorizer
    digest = voucher_digest(record.channel, cumulative, record.chain)
    signer = keys.of(record)
    signature = await signer.sign_digest(digest, chain=record.chain)
    by_contract = isinstance(signer, SmartWallet) or len(signature) != 65
    if named != ZERO_ADDRESS and by_contract:
        raise signs_as_contract(named)
    return signature


def signs_as_contract(account: Address) -> ConfigurationError:
    """Its vouchers could not be checked by everybody."""
    return ConfigurationError(
        f"{account} signs as a contract, which vouchers cannot be checked by: give the"
        " agent a voucher_key of its own"
    )


def unsigned_deposits(
    record: PayerRecord, asset: Asset, pending: PendingDeposit
) -> dict[str, Deposit]:
    """
    A deposit, by each way to sign it: its number is the same in all of them, so that a
    chain can be asked whichever was signed.
    """
    config = channel_config(record)
    deposits: dict[str, Deposit] = {
        PERMIT2: Permit2Deposit(
            config=config,
            asset=asset,
            amount=pending.amount,
            nonce=int(pending.salt, 16),
            deadline=pending.valid_before,
            signature=b"",
        )
    }
    if asset.eip3009:
        deposits[EIP3009] = TokenDeposit(
            config=config,
            asset=asset,
            amount=pending.amount,
            valid_after=0,
            valid_before=pending.valid_before,
            salt=pending.salt,
            signature=b"",
        )
    return deposits


def transfer_words(
    offer: Offer, name: str, *, approvals: SignedApprovals = _NO_APPROVALS
) -> JsonObject:
    """
    What the credential of an `exact` or `upto` payment says beside its transfer and its
    URL, in its offer's version: by these words it is written again.
    """
    if offer.first_network is not None:
        return {"network": offer.first_network}
    return {
        "accepted": offer.words,
        "extensions": answer_extensions(offer, approvals=approvals, name=name),
        "about": offer.about,
    }


def transfer_credential(
    transfer: Transfer, words: JsonObject, *, url: str
) -> tuple[str, str]:
    """The header of one `exact` or `upto` payment, and its value."""
    payload = transfer_payload(transfer)
    network = words.get("network")
    if network is not None:
        return X_PAYMENT, first_payment(str(network), payload)
    message = write.payment(
        accepted=_object(words, "accepted"),
        payload=payload,
        url=url,
        extensions=_object(words, "extensions"),
        about=_object(words, "about"),
    )
    return PAYMENT_SIGNATURE, encode_json(message)


def _object(words: JsonObject, name: str) -> JsonObject:
    value = words[name]
    return value if isinstance(value, dict) else {}
