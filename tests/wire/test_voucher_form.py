"""A voucher that is written from its form is the one that is written plainly."""

from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm.batch_settlement import ChannelConfig, channel_id
from agentpay.types import UINT128_MAX, Address, Hash32
from agentpay.wire.headers import encode_json
from agentpay.wire.voucher_form import voucher_form
from agentpay.wire.x402_write import payment, voucher_payload

addresses = st.binary(min_size=20, max_size=20).map(lambda b: Address("0x" + b.hex()))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.just(
    '"maxClaimableAmount":"0","signature":"0x"'
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=5,
)
objects = st.dictionaries(texts, values, max_size=3)


@st.composite
def configs(draw: st.DrawFn) -> ChannelConfig:
    return ChannelConfig(
        payer=draw(addresses),
        payer_authorizer=draw(addresses),
        receiver=draw(addresses),
        receiver_authorizer=draw(addresses),
        token=draw(addresses),
        withdraw_delay=draw(st.integers(0, 2**40 - 1)),
        salt=Hash32.of(draw(st.binary(min_size=32, max_size=32))),
    )


@given(
    configs(),
    objects,
    texts,
    objects,
    st.lists(
        st.tuples(st.integers(0, UINT128_MAX), st.binary(min_size=65, max_size=65)),
        max_size=3,
    ),
)
def test_both_ways_write_the_same(
    config: ChannelConfig,
    words: dict[str, object],
    url: str,
    extensions: dict[str, object],
    vouchers: list[tuple[int, bytes]],
) -> None:
    said: dict[str, object] = {"words": words, "url": url, "extensions": extensions}
    channel = channel_id(config, 84532)
    form = voucher_form(config, channel, **said)  # type: ignore[arg-type]
    for amount, signature in vouchers:
        payload = voucher_payload("voucher", config, channel, amount, signature)
        plain = payment(
            accepted=words,  # type: ignore[arg-type]
            payload=payload,
            url=url,
            extensions=extensions,  # type: ignore[arg-type]
        )

        assert form.filled(amount, signature) == encode_json(plain)
