"""The faster receipt of a voucher is, byte for byte, the one that is put together."""

from hypothesis import given
from hypothesis import strategies as st

from agentpay.core.payee_channel import Fate
from agentpay.types import UINT40_MAX, Address, ChainId, Hash32
from agentpay.wire import parallel, x402_receipt
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject, encode_json

amounts = st.integers(0, 2**256 - 1)
addresses = st.binary(min_size=20, max_size=20).map(lambda b: Address("0x" + b.hex()))
hashes = st.binary(min_size=32, max_size=32).map(Hash32.of)


def put_together(
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
) -> JsonObject:
    """What `x402_write` makes of the same."""
    extensions = None
    if cumulative is not None:
        extensions = parallel.outcome(cumulative, Fate.CHARGED, charged)
    state = write.channel_state(
        channel=channel,
        balance=balance,
        claimed=claimed,
        withdraw_requested_at=withdraw_requested_at,
        refund_nonce=refund_nonce,
        charged=total,
    )
    return write.receipt(
        success=True,
        chain=chain,
        payer=payer,
        amount="",
        extra={"channelState": state, "chargedAmount": str(charged)},
        extensions=extensions,
    )


@given(
    st.fixed_dictionaries(
        {
            "channel": hashes,
            "chain": st.integers(1, 2**63).map(ChainId),
            "payer": addresses,
            "withdraw_requested_at": st.integers(0, UINT40_MAX),
            "cumulative": st.none() | amounts,
            **dict.fromkeys(
                ("balance", "claimed", "refund_nonce", "total", "charged"), amounts
            ),
        }
    )
)
def test_a_vouchers_receipt_is_the_one_that_is_put_together(facts: JsonObject) -> None:
    header = x402_receipt.charged_voucher(**facts)  # type: ignore[arg-type]

    assert header == encode_json(put_together(**facts))  # type: ignore[arg-type]
