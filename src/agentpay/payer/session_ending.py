"""
The books of a session of MPP that is over: what the chain says that came back.
"""

from agentpay.core.budget import Returned
from agentpay.core.payer_channel import ChannelEmptied
from agentpay.errors import PayeeMisbehaved
from agentpay.evm.session_escrow_abi import SessionOnChain
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.policy import scale
from agentpay.records import PayerRecord


async def book_end(
    record: PayerRecord, state: SessionOnChain, ledger: PayerLedger
) -> int:
    """
    What came back of a session that is finalized, booked; safe to do again.

    Raises:
        PayeeMisbehaved: The payee took more than we ever owed it. The rest is booked.
    """
    now = await ledger.read(record.channel) or record
    owed = now.ledger.spent + now.ledger.outstanding
    returned = max(0, now.ledger.balance - state.settled)
    back = Returned(host=record.host, amount=scale(returned, record.decimals))
    await ledger.book(record.channel, ChannelEmptied(returned=returned), money=(back,))
    if state.settled > owed:
        ledger.distrusted.add(record.origin)
        raise PayeeMisbehaved(
            f"{record.origin} took {state.settled} of session {record.channel}, and"
            f" {owed} was owed: it is paid no more; {returned} came back"
        )
    return returned
