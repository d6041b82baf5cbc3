"""
Each of these was a real way to take money, found in an earlier set of rules.

The names say the property that closes the hole. See `docs/parallel-channels.md`.
"""

from dataclasses import replace

from agentpay.core.payee_channel import Fate, Status
from agentpay.core.payee_events import (
    CLOSING,
    EXCEEDS_BALANCE,
    MISMATCH,
    NOT_COVERED,
    Admitted,
    ChainSeen,
    LeaseLost,
    Noted,
    OutcomeAsked,
    OwnersDied,
    RefundDone,
    Refused,
    Spent,
    VoucherPublished,
)
from agentpay.core.payer_channel import (
    Issued,
    TicketCharged,
    TicketOld,
    TicketVoid,
    Wait,
)

from .factories import (
    ALIVE,
    REBORN,
    after,
    answer,
    charged,
    delivered,
    given_back,
    payee_channel,
    payer_after,
    payer_answer,
    payer_channel,
    pending_deposit,
    refund_asked,
    sold,
    voucher,
    wanted,
)


def seen(balance: int, *, claimed: int = 0, pending: int = 0) -> ChainSeen:
    return ChainSeen(balance=balance, claimed=claimed, pending_withdrawal=pending)


# What was bought is not sold again.


def test_a_pipelined_past_is_not_sold_again() -> None:
    """After two half-charged requests S + m is 20 again, and 20 was used."""
    channel = after(
        payee_channel(),
        voucher(10, 10),
        voucher(20, 10),
        charged(10, 5),
        charged(20, 5),
        delivered(10),
        delivered(20),
    )

    assert channel.charged == 10
    assert answer(channel, voucher(20, 10)) == Spent(fate=Fate.CHARGED, charged=5)


def test_a_used_amount_does_not_buy_a_cheaper_route() -> None:
    channel = after(payee_channel(), *sold(10, 10, 3))

    assert answer(channel, voucher(10, 7)) == Spent(fate=Fate.CHARGED, charged=3)


def test_a_used_amount_is_not_served_again_even_if_it_cost_nothing() -> None:
    channel = after(payee_channel(), *sold(10, 10, 0))

    assert answer(channel, voucher(10, 10)) == Spent(fate=Fate.CHARGED)


def test_a_refused_voucher_is_not_served_to_a_late_copy() -> None:
    refused = after(payee_channel(balance=5), voucher(10, 10))
    funded = after(refused, seen(15))

    assert answer(funded, voucher(10, 10)) == Spent(fate=Fate.VOID)
    assert isinstance(answer(funded, voucher(5, 5)), Admitted)


def test_an_answer_says_what_was_charged_for_a_used_voucher() -> None:
    """Told apart from a refusal, or the payer would book nothing for it."""
    channel = after(payee_channel(), *sold(10, 10, 4))

    assert answer(channel, voucher(10, 10)) == Spent(fate=Fate.CHARGED, charged=4)
    assert answer(channel, OutcomeAsked(cumulative=10, owner=ALIVE)) == Spent(
        fate=Fate.CHARGED, charged=4
    )


def test_what_left_the_window_is_not_sold_again() -> None:
    channel = payee_channel(window=2, balance=1000)
    for cumulative in (10, 20, 30):
        channel = after(channel, *sold(cumulative, 10, 10))

    assert channel.floor == 10
    assert answer(channel, voucher(10, 1)) == Spent(fate=Fate.OLD)
    assert answer(channel, voucher(9, 1)) == Spent(fate=Fate.OLD)


def test_the_window_counts_amounts_however_far_apart_they_are() -> None:
    """A window measured in money fails for tokens of 18 decimals."""
    unit = 10**18
    channel = payee_channel(window=3, balance=100 * unit)
    for cumulative in (unit, 50 * unit, 99 * unit):
        channel = after(channel, *sold(cumulative, 1, 1))

    assert answer(channel, voucher(unit, 1)) == Spent(fate=Fate.CHARGED, charged=1)


def test_an_asked_amount_is_never_served_afterwards() -> None:
    asked = after(payee_channel(), OutcomeAsked(cumulative=10, owner=ALIVE))

    assert answer(asked, voucher(10, 10)) == Spent(fate=Fate.VOID)


# Money in flight.


def test_a_deposit_is_not_stranded_by_metered_requests() -> None:
    """Ten requests of at most 1 that cost nothing leave the whole balance to spend."""
    payer, payee = (
        payer_channel(balance=10, window=16, in_flight_max=16),
        payee_channel(balance=10, window=16, in_flight_max=16),
    )
    tickets = []
    for _ in range(9):
        payer = payer_after(payer, wanted(1))
        tickets.append(payer.open[-1].cumulative)
    for ticket in tickets:
        payee = after(payee, *sold(ticket, 1, 0))
        payer = payer_after(payer, TicketCharged(cumulative=ticket, charged=0))
    payer = payer_after(payer, wanted(1))
    payee = after(payee, *sold(payer.highest, 1, 0))
    payer = payer_after(payer, TicketCharged(cumulative=10, charged=0))

    assert (payer.spent, payer.highest, payer.balance) == (0, 10, 10)
    assert payer.signed == tuple(range(1, 11))


def test_a_lower_amount_is_a_ticket_once_a_higher_one_arrived() -> None:
    """Rule 14: every amount above what is needed is signed, a free one is below."""
    payer = payer_channel(balance=10, headroom=10)
    payer = payer_after(payer, wanted(10), TicketCharged(cumulative=10, charged=8))
    payer = payer_after(payer, wanted(1), TicketCharged(cumulative=9, charged=0))

    assert payer_answer(payer, wanted(2)) == Issued(cumulative=8)

    payee = after(payee_channel(balance=10), *sold(10, 10, 8), *sold(9, 1, 0))
    assert isinstance(answer(payee, voucher(8, 2)), Admitted)


def test_a_lower_amount_is_not_signed_before_a_higher_one_arrived() -> None:
    payer = payer_channel(balance=10, headroom=10)
    payer = payer_after(payer, wanted(10), TicketVoid(cumulative=10))

    assert payer_answer(payer, wanted(10)).__class__.__name__ == "Unusable"


def test_what_a_burst_left_signed_stays_within_the_headroom() -> None:
    payer = payer_channel(balance=10_000, headroom=50, window=64, in_flight_max=64)
    for _ in range(200):
        payer = payer_after(payer, wanted(10))
        if len(payer.open) == 5:
            for ticket in payer.open:
                cumulative = ticket.cumulative
                booked = TicketCharged(cumulative=cumulative, charged=0)
                payer = payer_after(payer, booked)

    assert payer.spent == 0
    assert payer.highest <= 50


def test_a_thousand_free_requests_cannot_be_claimed_as_a_thousand() -> None:
    payer = payer_channel(balance=10_000, headroom=20, window=2000)
    for _ in range(1000):
        payer = payer_after(payer, wanted(1))
        if payer.open:
            cumulative = payer.open[0].cumulative
            payer = payer_after(payer, TicketCharged(cumulative=cumulative, charged=0))

    assert payer.exposure <= 20


def test_two_requests_do_not_carry_two_deposits() -> None:
    payer = payer_channel(balance=0)
    first = payer_answer(payer, wanted(10, deposit=pending_deposit(50)))
    waiting = payer_after(payer, wanted(10, deposit=pending_deposit(50)))
    second = payer_answer(waiting, wanted(10, deposit=pending_deposit(50, salt=2)))

    assert first == Issued(cumulative=10, deposit=pending_deposit(50))
    assert second == Wait(reason="a deposit is on its way")


def test_an_amount_the_payee_forgot_is_booked_at_its_maximum() -> None:
    payer = payer_after(payer_channel(), wanted(10), TicketOld(cumulative=10))

    assert payer.spent == 10


# Leases.


def test_slow_work_is_not_made_free_by_time() -> None:
    """Only another owner's reservations expire: nothing here has a clock."""
    channel = after(payee_channel(), voucher(10, 10), OwnersDied(owner=ALIVE))

    assert channel.reserved == 10
    assert after(channel, charged(10, 10), delivered(10)).due == 10


def test_a_stream_cut_short_costs_what_was_streamed() -> None:
    slices = [charged(100, amount, more=True) for amount in range(1, 100)]
    channel = after(payee_channel(), voucher(100, 100), *slices, given_back(100, 99))

    assert channel.due == 99


def test_a_handler_that_lost_its_lease_charges_nothing_more() -> None:
    channel = after(payee_channel(), voucher(10, 10), OwnersDied(owner=REBORN))

    assert answer(channel, charged(10, 10)) == LeaseLost()
    assert answer(channel, delivered(10)) == LeaseLost()
    assert answer(channel, given_back(10)) == LeaseLost()


def test_a_dead_owners_request_runs_again_for_the_same_resource_only() -> None:
    channel = after(payee_channel(), voucher(10, 10, resource="GET /a"))

    other = voucher(10, 10, owner=REBORN, resource="GET /b")
    same = voucher(10, 10, owner=REBORN, resource="GET /a")
    assert answer(channel, other) == Spent(fate=Fate.RUNNING)
    assert isinstance(answer(channel, same), Admitted)
    assert after(channel, same).reserved == 10


def test_a_second_run_charges_no_more_than_the_receipt_of_the_first() -> None:
    channel = after(payee_channel(), voucher(10, 10), charged(10, 3))
    again = after(channel, voucher(10, 10, owner=REBORN))
    more = after(again, delivered(10, owner=REBORN))

    assert again.reserved == 0
    assert more.charged == 3


def test_a_second_run_of_a_fixed_price_is_not_given_back() -> None:
    """The first run's receipt may have left, and the payer may have booked it."""
    channel = after(payee_channel(), voucher(10, 10, prepaid=True))
    again = after(channel, voucher(10, 10, prepaid=True, owner=REBORN))

    assert answer(again, given_back(10, owner=REBORN)) == Noted(charged=10)
    assert after(again, given_back(10, owner=REBORN)).charged == 10


def test_a_second_run_of_a_stream_pays_for_each_slice_once() -> None:
    channel = after(payee_channel(), voucher(10, 10), charged(10, 6, more=True))
    again = after(channel, voucher(10, 10, owner=REBORN))

    assert again.charged == 6
    assert after(again, delivered(10, owner=REBORN)).charged == 6


def test_a_dead_reservation_is_closed_by_asking_for_its_outcome() -> None:
    channel = after(payee_channel(), voucher(10, 10), charged(10, 4, more=True))
    asked = OutcomeAsked(cumulative=10, owner=REBORN)

    assert answer(channel, asked) == Spent(fate=Fate.CHARGED, charged=4)
    assert after(channel, asked).running == ()


# The chain.


def test_a_withdrawal_does_not_wedge_the_ledger() -> None:
    """Facts are stored even if they break what admission asks for."""
    running = after(payee_channel(), voucher(20, 20), seen(10))

    assert running.balance == 10
    assert after(running, charged(20, 20), delivered(20)).due == 20


def test_a_pending_withdrawal_is_not_lent_against() -> None:
    channel = payee_channel(balance=100, pending_withdrawal=95)

    refused = answer(channel, voucher(10, 10))
    assert refused == Refused(reason=EXCEEDS_BALANCE, burnt=True)
    assert isinstance(answer(channel, voucher(5, 5)), Admitted)


def test_what_is_charged_and_reserved_stays_below_a_shrunken_balance() -> None:
    """A low amount is a ticket, but not beyond what the balance still covers."""
    channel = after(payee_channel(), voucher(50, 40), seen(45))

    assert answer(channel, voucher(44, 6)) == Refused(reason=NOT_COVERED, burnt=True)
    assert isinstance(answer(channel, voucher(44, 5)), Admitted)


def test_a_claim_taken_back_by_the_chain_is_stored() -> None:
    forgotten = replace(payee_channel(tagged=False), claimed=60, charged=60, highest=60)
    reorganized = after(forgotten, seen(100, claimed=0))

    assert reorganized.claimed == 0
    assert isinstance(answer(reorganized, voucher(70, 10)), Admitted)


def test_k6_a_refunded_channel_sells_nothing_though_it_is_funded_again() -> None:
    channel = after(
        payee_channel(balance=30),
        *sold(10, 10, 10),
        *sold(20, 10, 5),
        refund_asked(21),
        seen(15, claimed=15),
        RefundDone(),
        seen(45, claimed=15),
    )

    assert channel.status is Status.CLOSED
    assert answer(channel, voucher(20, 5)) == Spent(fate=Fate.CHARGED, charged=5)
    assert answer(channel, voucher(25, 5)) == Refused(reason=CLOSING, burnt=True)


def test_the_voucher_that_asks_for_a_refund_buys_nothing() -> None:
    channel = after(payee_channel(), *sold(10, 10, 10), refund_asked(11))

    assert answer(channel, voucher(11, 1)) == Spent(fate=Fate.VOID)
    assert channel.claim_voucher() is not None
    assert all(held.amount != 11 for held in channel.held)


def test_a_voucher_that_bought_something_asks_for_no_refund() -> None:
    channel = after(payee_channel(), *sold(10, 10, 10))

    assert answer(channel, refund_asked(10)) == Spent(fate=Fate.CHARGED, charged=10)
    assert after(channel, refund_asked(10)).status is Status.OPEN


def test_a_strict_voucher_that_a_claim_published_buys_nothing() -> None:
    channel = payee_channel(tagged=False)
    channel = after(channel, *sold(10, 10, 3), VoucherPublished(amount=10))

    assert answer(channel, voucher(10, 7)) == Refused(reason=MISMATCH, burnt=False)
    assert isinstance(answer(channel, voucher(13, 10)), Admitted)
