"""
What a payee's sessions run on, and how it is put together.
"""

import logging
from collections.abc import Callable

from agentpay.errors import UnsuitableEscrow
from agentpay.evm.addresses import SESSION_ESCROW
from agentpay.evm.session_escrow import Escrow
from agentpay.facilitator.deposit_gas import DepositGas
from agentpay.facilitator.session_desk import EscrowDesk
from agentpay.payee.answers import Answers
from agentpay.payee.finality import Credits
from agentpay.payee.mpp_offers import MppTerms
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.session_books import SessionBooks
from agentpay.payee.session_closing import SessionClosing
from agentpay.payee.session_funding import SessionFunding
from agentpay.payee.session_sales import SessionSales
from agentpay.payee.session_settlement import SessionSettlement
from agentpay.payee.watched import Watched
from agentpay.ports import Chain, Signer
from agentpay.sending_ports import Sender
from agentpay.stores import Store

_log = logging.getLogger(__name__)


async def look_after_sessions(
    settings: PayeeSettings,
    *,
    payee: Signer,
    chain: Chain,
    sender: Sender,
    deposits: DepositGas,
    store: Store,
    watched: Watched,
    clock: Callable[[], float],
) -> SessionSettlement | None:
    """
    What looks after sessions; None where none are sold, and none are left.

    `payee` signs for the account that they pay.
    What is due on sessions that were sold is taken also where none are sold any more.
    """
    if settings.escrow is None and not await _has_sessions(store):
        return None
    escrow = settings.escrow or SESSION_ESCROW
    desk = EscrowDesk(
        chain=chain,
        senders=[sender],
        payee=payee,
        asset=settings.asset,
        escrow=Escrow(chain=settings.asset.chain, contract=escrow),
        deposits=deposits,
    )
    try:
        await desk.start()
    except UnsuitableEscrow as error:
        _log.warning("no sessions are sold: %s", error)
        return None
    return SessionSettlement(
        desk=desk,
        store=store.payee,
        credited=Credits(chain, settings.finality),
        watched=watched,
        clock=clock,
    )


async def _has_sessions(store: Store) -> bool:
    due = await store.payee.claimable(sessions=True, at_least=1, limit=1)
    return bool(due or await store.payee.closing(sessions=True, limit=1))


def sell_on_sessions(
    mpp: MppTerms | None,
    settings: PayeeSettings,
    settlement: SessionSettlement | None,
    answers: Answers,
    *,
    store: Store,
    clock: Callable[[], float],
) -> SessionSales | None:
    """What sells on sessions; None where none are sold."""
    if mpp is None or settings.escrow is None or settlement is None:
        return None
    books = SessionBooks(settings=settings, store=store.payee, clock=clock)
    return SessionSales(
        books=books,
        mpp=mpp,
        funding=SessionFunding(books=books, settlement=settlement),
        closing=SessionClosing(books=books, settlement=settlement),
        answers=answers,
    )
