"""
Receipts of vouchers, written as `x402_write` and `parallel` write them, but faster.

Nearly every answer on a channel carries one. All that changes in it is digits and hex
of typed values, so that it is text with gaps, and nothing in it has to be escaped.
"""

import base64

from agentpay.types import Address, ChainId, Hash32, network_of


def charged_voucher(
    *,
    channel: Hash32,
    chain: ChainId,
    payer: Address,
    balance: int,
    claimed: int,
    withdraw_requested_at: int,
    refund_nonce: int,
    total: int,
    charged: int,
    cumulative: int | None,
) -> str:
    """
    The `PAYMENT-RESPONSE` header for a voucher that bought a request.

    `withdraw_requested_at` is when the payer began to leave, in the chain's time, or 0.
    `total` is what was charged on the channel in all, and `cumulative` the voucher's
    amount where it is one of a parallel channel.
    """
    outcome = ""
    if cumulative is not None:
        outcome = (
            ',"extensions":{"parallel-vouchers":{"info":{'
            f'"cumulative":"{cumulative:d}","fate":"charged","charged":"{charged:d}"'
            "}}}"
        )
    text = (
        f'{{"success":true,"payer":"{payer}","transaction":"",'
        f'"network":"{network_of(chain)}","amount":"","extra":{{"channelState":{{'
        f'"channelId":"{channel}","balance":"{balance:d}","totalClaimed":"{claimed:d}",'
        f'"withdrawRequestedAt":{withdraw_requested_at:d},'
        f'"refundNonce":"{refund_nonce:d}","chargedCumulativeAmount":"{total:d}"}},'
        f'"chargedAmount":"{charged:d}"}}{outcome}}}'
    )
    return base64.b64encode(text.encode("ascii")).decode("ascii")
