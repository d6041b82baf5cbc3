"""
The least that a paywall can do: what ours is measured against, beside none at all.

A payment's base64 and JSON, the digest of its voucher and who signed it, a sum by its
channel, and a receipt. It sells a voucher twice, asks for no price, keeps nothing and
survives nothing: it is no paywall, but nothing can be saved below it.
"""

import base64
import json
from collections import Counter
from typing import Any

from agentpay.evm.batch_settlement import voucher_digest
from agentpay.evm.networks import LOCAL
from agentpay.evm.signature import is_signed_by_key
from agentpay.types import Address, Hash32
from bench.goods import PRICE, App


def least(app: App) -> App:
    """The same application for who brings a voucher that its payer signed."""
    charged: Counter[Hash32] = Counter()

    async def paid(scope: Any, receive: Any, send: Any) -> None:
        header = dict(scope.get("headers", ())).get(b"payment-signature")
        if header is None:
            await app(scope, receive, send)
            return
        payload = json.loads(base64.b64decode(header))["payload"]
        payer, voucher = payload["channelConfig"]["payer"], payload["voucher"]
        channel = Hash32(voucher["channelId"])
        amount = int(voucher["maxClaimableAmount"])
        signature = bytes.fromhex(voucher["signature"][2:])
        digest = voucher_digest(channel, amount, LOCAL.chain)
        if not is_signed_by_key(Address(payer.lower()), digest, signature):
            raise ValueError("a good voucher was refused")
        charged[channel] += PRICE
        said = {"success": True, "payer": payer, "charged": str(charged[channel])}
        receipt = base64.b64encode(json.dumps(said).encode())

        async def send_paid(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"payment-response", receipt))
            await send(message)

        await app(scope, receive, send_paid)

    return paid
