"""What a payment on a channel says is the same, whatever was read before it."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm.networks import LOCAL
from agentpay.payee.channel_reading import ChannelReading, read_payment
from agentpay.payee.offers import PayeeSettings, make_offers
from agentpay.payee.pricing import Route, Terms, terms_of
from agentpay.types import Address, Hash32
from agentpay.wire import parallel
from agentpay.wire import x402_write as write
from agentpay.wire.headers import encode_json
from agentpay.wire.parallel import ParallelTerms
from agentpay.wire.x402 import BATCH_SETTLEMENT, parse_payment
from agentpay.wire.x402_vouchers import KNOWN_MAX, VoucherReader
from tests.stores.store_cases import config

SHOP = PayeeSettings(
    asset=LOCAL.usdc,
    pay_to=Address("0x" + "b1" * 20),
    authorizer=Address("0x" + "b2" * 20),
    withdraw_delay=86400,
    parallel=ParallelTerms(window=4, in_flight_max=2),
    min_deposit=0,
)
OTHER = replace(SHOP, pay_to=Address("0x" + "b3" * 20))
URLS = ("https://shop.example/ok", "https://shop.example/other")


def terms(price: int, url: str, *, bound: bool) -> Terms:
    base = terms_of(Route(price=price), resource="a route", decimals=6)
    return base.at("GET /ok", url=url, query="", bound=bound)


def header(number: int, amount: int, price: int, url: str, *, query: bool) -> str:
    """A voucher of one of several channels, which accepts one of several offers."""
    accepted = next(
        offer
        for offer in make_offers(SHOP, terms(price, url, bound=True))
        if offer["scheme"] == BATCH_SETTLEMENT
    )
    named = Hash32.of(bytes([number]) * 32)
    signature = amount.to_bytes(65, "big")
    payload = write.voucher_payload("voucher", config(number), named, amount, signature)
    extensions = parallel.echo(SHOP.parallel, query=query)
    message = write.payment(
        accepted=accepted, payload=payload, url=url, extensions=extensions
    )
    return encode_json(message)


payments = st.fixed_dictionaries(
    {
        "number": st.integers(0, 1),
        "amount": st.integers(1, 9),
        "price": st.sampled_from([1000, 2000]),
        "url": st.sampled_from(URLS),
        "query": st.booleans(),
    }
)
asked = st.builds(
    terms, st.sampled_from([1000, 2000]), st.sampled_from(URLS), bound=st.booleans()
)


@given(
    st.lists(st.tuples(payments, asked, st.sampled_from([SHOP, OTHER])), max_size=12)
)
def test_one_after_another_says_what_it_would_alone(
    requests: list[tuple[dict[str, Any], Terms, PayeeSettings]],
) -> None:
    reader, reading = VoucherReader(), ChannelReading()
    for payment, wanted, settings in requests:
        sent = header(**payment)
        alone = read_payment(parse_payment(sent), wanted, settings)

        assert reading.read(reader.read(sent), wanted, settings) == alone


def test_only_what_accepts_the_terms_of_this_request_agrees() -> None:
    reader, reading = VoucherReader(), ChannelReading()
    here = terms(1000, URLS[0], bound=True)
    dearer, elsewhere = (
        terms(2000, URLS[0], bound=True),
        terms(1000, URLS[1], bound=True),
    )
    for amount in (1, 2, 3):
        read = reader.read(header(0, amount, 1000, URLS[0], query=False))

        assert reading.read(read, here, SHOP).agreed
        assert not reading.read(read, dearer, SHOP).agreed
        assert not reading.read(read, elsewhere, SHOP).agreed
        assert not reading.read(read, here, OTHER).agreed
        assert reading.read(read, here, SHOP).cumulative == amount


def test_what_is_remembered_is_bounded() -> None:
    reader, reading = VoucherReader(), ChannelReading()
    wanted = terms(1000, URLS[0], bound=True)
    for n in range(KNOWN_MAX + 5):
        for amount in (1, 2):
            sent = header(0, amount, 1000, f"{URLS[0]}?{n}", query=False)
            reading.read(reader.read(sent), wanted, SHOP)

    assert len(reading._known) == KNOWN_MAX
