"""Records, events and decisions for the tests of stores, by the real rules."""

from dataclasses import replace
from pathlib import Path

from hypothesis import strategies as st

from agentpay.core import budget as budget_rules
from agentpay.core import payee_rules, session_rules
from agentpay.core.budget import Budget, BudgetEvent, Hold, Limits
from agentpay.core.payee_channel import PayeeChannel
from agentpay.core.payee_events import (
    Answer,
    ChainSeen,
    Charged,
    Delivered,
    Event,
    GivenBack,
    OutcomeAsked,
    OwnersDied,
    PartBegun,
    RefundAsked,
    RefundDone,
    VoucherPublished,
    VoucherRefused,
    VoucherVerified,
)
from agentpay.core.payer_channel import (
    ChannelEmptied,
    CloseWanted,
    DepositArrived,
    DepositLapsed,
    PayerAnswer,
    PayerChannel,
    PendingDeposit,
    SpentReported,
    TicketArrived,
    TicketCharged,
    TicketOld,
    TicketVoid,
    TicketWanted,
)
from agentpay.core.payer_session_rules import (
    AcceptedReported,
    CloseCorrected,
    PayerSessionEvent,
    RaiseWanted,
    TicketDelivered,
)
from agentpay.core.session_rules import (
    CloseAsked,
    Extended,
    Finalized,
    SessionEvent,
    VoucherRaised,
)
from agentpay.errors import InvariantViolated
from agentpay.evm.batch_settlement import PARALLEL_TAG, ChannelConfig, channel_id
from agentpay.evm.session_escrow import Escrow, SessionConfig, SessionTerms
from agentpay.payer.ledger_steps import apply_to
from agentpay.records import (
    Config,
    PayeeDecide,
    PayeeRecord,
    PayeeStep,
    PayerDecide,
    PayerRecord,
    PayerStep,
    PaymentRecord,
)
from agentpay.stores import SqliteStore
from agentpay.types import Address, ChainId, Hash32

CHAIN = ChainId(84532)
ESCROW = Escrow(chain=CHAIN, contract=Address("0x" + "e5" * 20))
ACCOUNT = Address("0x" + "a1" * 20)
LARGE = 10**60
"""Makes amounts that no 64-bit integer holds."""


def config(number: int = 0, *, tagged: bool = True) -> ChannelConfig:
    tag = PARALLEL_TAG if tagged else bytes(4)
    return ChannelConfig(
        payer=ACCOUNT,
        payer_authorizer=Address("0x" + "a2" * 20),
        receiver=Address("0x" + "b1" * 20),
        receiver_authorizer=Address("0x" + "b2" * 20),
        token=Address("0x" + "c1" * 20),
        withdraw_delay=86400,
        salt=Hash32.of(tag + number.to_bytes(28, "big")),
    )


def session_config(number: int = 0, *, tagged: bool = True) -> SessionConfig:
    tag = PARALLEL_TAG if tagged else bytes(4)
    terms = SessionTerms(
        payer=ACCOUNT,
        payee=Address("0x" + "b1" * 20),
        token=Address("0x" + "c1" * 20),
        salt=Hash32.of(tag + number.to_bytes(28, "big")),
        authorized_signer=Address("0x" + "a2" * 20),
    )
    return SessionConfig(terms=terms, escrow=ESCROW)


def channel(number: int = 0, *, tagged: bool = True, session: bool = False) -> Hash32:
    if session:
        return session_config(number, tagged=tagged).channel
    return channel_id(config(number, tagged=tagged), CHAIN)


def _config(number: int, *, tagged: bool, session: bool) -> Config:
    kind = session_config if session else config
    return kind(number, tagged=tagged)


def payee_record(
    number: int = 0,
    *,
    tagged: bool = True,
    window: int = 4,
    in_flight_max: int = 3,
    balance: int = 1000,
    session: bool = False,
) -> PayeeRecord:
    return PayeeRecord(
        channel=channel(number, tagged=tagged, session=session),
        chain=CHAIN,
        config=_config(number, tagged=tagged, session=session),
        ledger=PayeeChannel(
            tagged=tagged,
            window=window,
            in_flight_max=in_flight_max,
            balance=balance,
            pays_whole=session,
        ),
        last_voucher_at=1,
    )


def payer_record(
    number: int = 0, *, tagged: bool = True, session: bool = False
) -> PayerRecord:
    return PayerRecord(
        channel=channel(number, tagged=tagged, session=session),
        chain=CHAIN,
        config=_config(number, tagged=tagged, session=session),
        origin="https://api.example",
        index=number,
        decimals=6,
        ledger=PayerChannel(tagged=tagged, window=4, in_flight_max=3, headroom=20),
    )


def payment(
    payment_id: str = "84532:token:payer:nonce", **changes: str
) -> PaymentRecord:
    return PaymentRecord(
        id=payment_id,
        payer=ACCOUNT,
        amount=1500,
        resource="https://api.example/answer",
        owner=changes.get("owner", "us"),
        started_at=1_700_000_000,
    )


def voucher(
    cumulative: int, *, maximum: int = 1, prepaid: bool = True, owner: str = "us"
) -> VoucherVerified:
    return VoucherVerified(
        cumulative=cumulative,
        signature=cumulative.to_bytes(65, "big"),
        maximum=maximum,
        prepaid=prepaid,
        owner=owner,
        resource="/answer",
    )


def _apply(ledger: PayeeChannel, event: SessionEvent) -> payee_rules.Transition:
    if ledger.pays_whole:
        return session_rules.apply(ledger, event)
    if isinstance(event, VoucherRaised | Extended | CloseAsked | Finalized):
        raise InvariantViolated(f"x402 knows no {type(event).__name__}")
    return payee_rules.apply(ledger, event)


def happens(
    event: SessionEvent, fresh: PayeeRecord | None = None, *, now: int = 0
) -> PayeeDecide[Answer]:
    """A payee's step: the real rules on the record, or on a fresh one."""

    def decide(record: PayeeRecord | None) -> PayeeStep[Answer]:
        before = record or fresh or payee_record()
        done = _apply(before.ledger, event)
        if record is not None and done.channel is record.ledger:
            return PayeeStep(record=record, answer=done.answer)
        moved = before.moved(done.channel, at=max(now, before.last_voucher_at))
        after = replace(moved, refund_nonce=before.refund_nonce + 1)
        return PayeeStep(record=after, answer=done.answer, touched=done.touched)

    return decide


def is_put(record: PayeeRecord) -> PayeeDecide[None]:
    """A payee's step that starts a channel as it is given."""

    def decide(before: PayeeRecord | None) -> PayeeStep[None]:
        return PayeeStep(record=before or record, answer=None)

    return decide


def books(
    event: PayerSessionEvent | None,
    spending: BudgetEvent | None,
    limits: Limits,
    fresh: PayerRecord,
) -> PayerDecide[PayerAnswer | None]:
    """A payer's step: the real rules on the channel and the budget at once."""

    def decide(
        budget: Budget, record: PayerRecord | None
    ) -> PayerStep[PayerAnswer | None]:
        after = record
        answer: PayerAnswer | None = None
        if event is not None:
            before = record or fresh
            moved, answer = apply_to(before, event)
            if moved is not record:
                after = replace(moved, offer=f"after {event!r}")
        if spending is not None:
            budget = budget_rules.apply(budget, spending, limits)
        return PayerStep(budget=budget, record=after, answer=answer)

    return decide


LIMITS = Limits(total=2 * 10**20, per_host=10**20, per_request=10**20)
"""Low enough for `budget_events` to be refused sometimes."""

_nonces = st.integers(0, 2)
_small = st.integers(1, 30)
_owners = st.sampled_from(["us", "them"])


def payee_events(scale: int = 1) -> st.SearchStrategy[Event]:
    """Events of a small world, so that they meet each other often."""
    amounts = _small.map(lambda amount: amount * scale)
    prices = st.integers(0, 6).map(lambda amount: amount * scale)
    signatures = st.binary(min_size=65, max_size=65)
    verified = st.builds(
        VoucherVerified,
        cumulative=amounts,
        signature=signatures,
        maximum=prices,
        prepaid=st.booleans(),
        owner=_owners,
        resource=st.sampled_from(["/one", "/zwei/ü\x00"]),
    )
    return st.one_of(
        verified,
        verified,
        st.builds(OutcomeAsked, cumulative=amounts, owner=_owners),
        st.builds(VoucherRefused, cumulative=amounts),
        st.builds(Charged, cumulative=amounts, owner=_owners, charged=prices),
        st.builds(Delivered, cumulative=amounts, owner=_owners),
        st.builds(GivenBack, cumulative=amounts, owner=_owners, charged=prices),
        st.builds(
            RefundAsked,
            cumulative=amounts,
            signature=signatures,
            owner=_owners,
            part=st.none() | prices,
        ),
        st.builds(OwnersDied, owner=_owners),
        st.builds(
            ChainSeen,
            balance=st.integers(0, 60).map(lambda amount: amount * scale),
            claimed=st.integers(0, 20).map(lambda amount: amount * scale),
            pending_withdrawal=st.integers(0, 5).map(lambda amount: amount * scale),
        ),
        st.builds(VoucherPublished, amount=amounts),
        st.builds(PartBegun, cumulative=amounts, nonce=_nonces),
        st.just(RefundDone()),
        st.builds(
            RefundDone,
            nonce=_nonces,
            refunded=amounts,
            transaction=st.sampled_from(["", "0x" + "ab" * 32]),
        ),
    )


def session_events(scale: int = 1) -> st.SearchStrategy[SessionEvent]:
    """Those of x402's channels, and what only sessions know."""
    amounts = _small.map(lambda amount: amount * scale)
    signatures = st.binary(min_size=65, max_size=65)
    return st.one_of(
        payee_events(scale),
        payee_events(scale),
        st.builds(VoucherRaised, cumulative=amounts, signature=signatures),
        st.builds(CloseAsked, cumulative=amounts, signature=signatures, owner=_owners),
        st.just(Finalized()),
    )


def payer_events() -> st.SearchStrategy[PayerSessionEvent]:
    prices = st.integers(0, 8)
    salts = st.sampled_from([Hash32.of(bytes([n]) * 32) for n in (1, 2)])
    deposits = st.builds(
        PendingDeposit, amount=st.integers(1, 40), salt=salts, valid_before=_small
    )
    return st.one_of(
        st.builds(
            TicketWanted,
            maximum=prices,
            deposit=st.none() | deposits,
            low_water=prices,
        ),
        st.builds(TicketCharged, cumulative=_small, charged=prices),
        st.builds(TicketVoid, cumulative=_small),
        st.builds(TicketOld, cumulative=_small),
        st.builds(TicketArrived, cumulative=_small),
        st.builds(SpentReported, charged=_small),
        st.builds(DepositArrived, salt=salts),
        st.builds(DepositLapsed, salt=salts),
        st.just(CloseWanted()),
        st.builds(ChannelEmptied, returned=prices),
        st.builds(
            RaiseWanted, cumulative=_small, more=prices, deposit=st.none() | deposits
        ),
        st.builds(TicketDelivered, cumulative=_small, delivered=prices),
        st.builds(CloseCorrected, charged=prices),
        st.builds(AcceptedReported, cumulative=_small),
    )


def budget_events() -> st.SearchStrategy[BudgetEvent]:
    ids = st.sampled_from(["h1", "h2", "h3", "h4"])
    hosts = st.sampled_from(["one.example", "two.example", "three.example"])
    amounts = st.integers(0, 10**20)
    holds = st.builds(
        Hold,
        id=ids,
        host=hosts,
        amount=amounts,
        valid_before=_small,
        detail=st.sampled_from(["{}", '{"é": "\U0001f4b8"}']),
    )
    return st.one_of(
        st.builds(budget_rules.Reserved, hold=holds),
        st.builds(budget_rules.Spent, id=ids, amount=amounts),
        st.builds(budget_rules.Released, id=ids),
        st.builds(budget_rules.Returned, host=hosts, amount=amounts),
        st.builds(
            budget_rules.Undelivered,
            host=hosts,
            sent_at=_small,
            noticed_at=_small,
            within=_small,
        ),
        st.builds(budget_rules.Delivered, host=hosts),
    )


WIDE = payee_record(window=64, in_flight_max=64)


async def fill(path: Path, vouchers: int = 3) -> None:
    async with await SqliteStore.open(path) as store:
        for cumulative in range(1, vouchers + 1):
            await store.payee.update(channel(), happens(voucher(cumulative), WIDE))
            done = Delivered(cumulative=cumulative, owner="us")
            await store.payee.update(channel(), happens(done))
