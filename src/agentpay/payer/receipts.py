"""
Receipts that a payee signed, for a payer to keep and to show.

A signature proves who signed; that they may speak for the payee is proven by the
account that was paid, or by what the payer knows of the payee's keys from elsewhere.
"""

from collections.abc import Callable, Collection

from agentpay.errors import MalformedMessage
from agentpay.payer.payment import Answer
from agentpay.types import Address
from agentpay.wire.headers import decode_json
from agentpay.wire.offer_receipt import SignedReceipt, read_receipt
from agentpay.wire.x402 import PAYMENT_RESPONSE

KeepReceipt = Callable[[SignedReceipt], None]
"""Takes each receipt that was signed by whom we trust to sign it."""


def receipt_in(
    answer: Answer, *, url: str, payer: Address, trusted: Collection[Address]
) -> SignedReceipt | None:
    """
    The signed receipt of an answer, if it is ours, for this resource, and by somebody
    in `trusted`: the account that was paid, and keys of the payee that we know.
    """
    header = answer.headers.get(PAYMENT_RESPONSE.lower())
    if header is None:
        return None
    try:
        extensions = decode_json(header, name=PAYMENT_RESPONSE).get("extensions")
        signed = read_receipt(extensions if isinstance(extensions, dict) else {})
    except MalformedMessage:
        return None
    if signed is None or signed.signer not in trusted:
        return None
    said = signed.payload
    same = said.resource_url == url and said.payer.lower() == payer
    return signed if same else None
