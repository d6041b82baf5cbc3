"""What one channel may owe is bounded where its payee says so, and claimed before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay import Agent, Budget, ConfigurationError, Payee, PaymentRejected, Route
from agentpay.core import payee_rules, session_rules
from agentpay.core.payee_channel import HeldVoucher, PayeeChannel
from agentpay.core.payee_events import (
    EXPOSED,
    Admitted,
    ChainSeen,
    Noted,
    Refused,
    VoucherVerified,
)
from agentpay.core.session_rules import Extended, Raises, VoucherRaised
from agentpay.testing.local_chain import LocalChain
from tests.http.world import eventually
from tests.keeper.test_settlement_triggers import PRICE, a_world
from tests.keeper.test_what_chains_take_back import a_keeper

AMOUNTS = st.integers(0, 200)


def asked(cumulative: int, maximum: int, limit: int | None) -> VoucherVerified:
    return VoucherVerified(
        cumulative=cumulative,
        signature=b"v",
        maximum=maximum,
        prepaid=True,
        owner="me",
        resource="GET /data",
        exposure_max=limit,
    )


def a_channel(charged: int, claimed: int, *, tagged: bool, whole: bool) -> PayeeChannel:
    return PayeeChannel(
        tagged=tagged,
        window=64,
        in_flight_max=8,
        balance=1000,
        charged=charged,
        claimed=claimed,
        highest=charged,
        held=(HeldVoucher(amount=charged, signature=b"v"),) if charged else (),
        pays_whole=whole,
    )


@given(
    books=st.tuples(AMOUNTS, AMOUNTS),
    maximum=st.integers(1, 200),
    limit=st.none() | st.integers(0, 400),
    tagged=st.booleans(),
    whole=st.booleans(),
)
def test_nothing_is_sold_beyond_the_limit_and_everything_within(
    books: tuple[int, int],
    maximum: int,
    limit: int | None,
    tagged: bool,
    whole: bool,
) -> None:
    claimed, charged = sorted(books)
    channel = a_channel(charged, claimed, tagged=tagged, whole=whole)
    event = asked(charged + maximum, maximum, limit)
    done = (session_rules if whole else payee_rules).apply(channel, event)
    after = done.channel
    fits = limit is None or charged - claimed + maximum <= limit

    assert isinstance(done.answer, Admitted) == fits
    if not fits:
        assert done.answer == Refused(reason=EXPOSED, burnt=tagged)
        assert after.charged == charged
    claims = ChainSeen(balance=1000, claimed=charged, pending_withdrawal=0)
    freed = payee_rules.apply(after, claims).channel
    again = asked(
        charged + maximum + 1 if tagged else charged + maximum, maximum, limit
    )
    sold = (session_rules if whole else payee_rules).apply(freed, again).answer
    if not fits:
        assert isinstance(sold, Admitted) == (limit is None or maximum <= limit)


@given(limit=st.integers(10, 100), more=st.integers(0, 200))
def test_a_stream_grows_up_to_the_limit(limit: int, more: int) -> None:
    channel = a_channel(0, 0, tagged=False, whole=True)
    channel = session_rules.apply(channel, asked(10, 10, limit)).channel
    raised = VoucherRaised(cumulative=900, signature=b"v")
    channel = session_rules.apply(channel, raised).channel
    grows = Extended(cumulative=10, owner="me", maximum=10 + more, exposure_max=limit)
    grown = session_rules.apply(channel, grows).channel.running[0].maximum

    assert grown == min(10 + more, limit)


@given(limit=st.integers(10, 100), more=st.integers(1, 200))
def test_a_voucher_raises_no_stream_beyond_the_limit(limit: int, more: int) -> None:
    channel = a_channel(0, 0, tagged=True, whole=True)
    metered = VoucherVerified(
        cumulative=10,
        signature=b"v",
        maximum=10,
        prepaid=False,
        owner="me",
        resource="GET /data",
        exposure_max=limit,
    )
    channel = session_rules.apply(channel, metered).channel
    raised = VoucherRaised(
        cumulative=900,
        signature=b"v",
        raises=Raises(cumulative=10, maximum=10 + more),
        exposure_max=limit,
    )
    done = session_rules.apply(channel, raised)

    assert isinstance(done.answer, Noted) == (10 + more <= limit)
    assert done.channel.running[0].maximum <= limit


async def test_a_channel_that_owes_too_much_is_not_served_until_it_is_claimed(
    agentpay_chain: LocalChain,
) -> None:
    async with a_world(
        agentpay_chain, claim_at="$1000", exposure_max=2 * PRICE
    ) as world:
        await world.buy(1)
        keeper = await a_keeper(world)
        await world.buy(1)
        with pytest.raises(PaymentRejected, match=EXPOSED):
            await world.agent.get(world.url)
        await keeper.tick()
        earned = await world.earned()
        await world.buy(2)

        assert earned == 2 * PRICE


async def test_half_of_the_limit_is_claimed_so_that_buyers_never_meet_it(
    agentpay_chain: LocalChain,
) -> None:
    async with a_world(
        agentpay_chain, claim_at="$1000", exposure_max=4 * PRICE
    ) as world:

        async def all_is_claimed() -> bool:
            return not (await world.payee.figures()).unclaimed

        for _ in range(5):
            await world.buy(2)
            await eventually(all_is_claimed)


async def test_another_payer_is_served_while_one_owes_too_much(
    agentpay_chain: LocalChain,
) -> None:
    async with (
        a_world(agentpay_chain, claim_at="$1000", exposure_max=PRICE) as world,
        Agent(
            await agentpay_chain.funded_wallet("$10"),
            budget=Budget(total="$5", per_request="$0.01"),
            network=agentpay_chain.network,
            allow_private_networks=True,
        ) as other,
    ):
        await world.buy(1)
        await a_keeper(world)
        with pytest.raises(PaymentRejected):
            await world.agent.get(world.url)

        assert (await other.get(world.url)).status_code == 200


async def test_a_price_that_no_channel_could_pay_is_refused_at_once(
    agentpay_chain: LocalChain,
) -> None:
    wallet = await agentpay_chain.funded_wallet("$0")
    payee = Payee(wallet, network=agentpay_chain.network, exposure_max="$0.01")

    with pytest.raises(ConfigurationError, match="exposure_max"):
        payee.terms(Route(price="$0.02"), resource="GET /data", url="")
    with pytest.raises(ConfigurationError, match="exposure_max"):
        Payee(wallet, network=agentpay_chain.network, exposure_max="free")
    dear = Route(price="$0.02", schemes=("exact",))
    assert payee.terms(dear, resource="GET /data", url="").maximum == 20_000
