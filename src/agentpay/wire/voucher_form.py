"""
Vouchers of one channel under one offer, written fast: only an amount and its signature
change from one to the next.

The plain way is `x402_write.payment` with `encode_json`; a property test shows that
both write the same.
"""

import base64
from dataclasses import dataclass

from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.types import Hash32
from agentpay.wire.headers import JsonObject, write_json
from agentpay.wire.x402_write import payment, voucher_payload


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherForm:
    """The JSON of a payment around the two."""

    before: str
    between: str
    after: str

    def filled(self, amount: int, signature: bytes) -> str:
        """The credential, fit for a header."""
        text = f"{self.before}{amount}{self.between}{signature.hex()}{self.after}"
        return base64.b64encode(text.encode("utf-8")).decode("ascii")


def voucher_form(
    config: ChannelConfig,
    channel: Hash32,
    *,
    words: JsonObject,
    url: str,
    extensions: JsonObject,
) -> VoucherForm:
    """The form of a channel's vouchers under an offer, whose own `words` are echoed."""
    empty = voucher_payload("voucher", config, channel, 0, b"")
    text = write_json(
        payment(accepted=words, payload=empty, url=url, extensions=extensions)
    )
    # The payload comes first, and what it says before the amount is hex and numbers.
    before, _, rest = text.partition('"maxClaimableAmount":"0"')
    before, between = f'{before}"maxClaimableAmount":"', '","signature":"0x'
    after = rest.removeprefix(',"signature":"0x')
    return VoucherForm(before=before, between=between, after=after)
