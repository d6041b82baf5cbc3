"""
Getting what is left in a channel back, with the payee's help.

What came back is read from the chain: a receipt is a hint.
"""

import asyncio
import json
from dataclasses import dataclass

from agentpay.core.budget import Returned
from agentpay.core.exchange import Corrected
from agentpay.core.payer_channel import (
    Booked,
    ChannelEmptied,
    CloseWanted,
    PayerStatus,
    TotalShown,
)
from agentpay.errors import ChannelUnusable, PaymentOutcomeUnknown, PaymentRejected
from agentpay.evm.session_escrow import SessionConfig
from agentpay.onchain import read_channel
from agentpay.payer.corrected import read_corrected
from agentpay.payer.payer import Payer
from agentpay.payer.payment import Answer, Asker
from agentpay.payer.policy import scale
from agentpay.payer.session_closing import close_session, closing_amount
from agentpay.payer.signing import sign_voucher
from agentpay.ports import Chain
from agentpay.records import PayerRecord
from agentpay.types import Hash32

_AGAIN_SECONDS = 0.2
_CORRECTIONS_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A channel that gave back what was left in it. Amounts are base units."""

    channel: Hash32
    spent: int
    returned: int
    transaction: str


async def close_channel(
    channel: Hash32, *, payer: Payer, chain: Chain, ask: Asker
) -> Closed:
    """
    Ask for the refund until it is on the chain.

    Raises:
        PaymentRejected: The payee refuses.
        PaymentOutcomeUnknown: It does not answer in time; asking again is safe.
        ChannelUnusable: Requests are in flight, there is no such channel, or its key
            is another.
        PayeeMisbehaved: The payee of a session of MPP claims, or took, what we do not
            owe it; or one shows a voucher of ours that our books do not know.
    """
    record = await payer.ledger.read(channel)
    if record is None:
        raise ChannelUnusable(f"there is no channel {channel} in this store")
    if record.ledger.status is PayerStatus.CLOSED:
        raise ChannelUnusable(f"channel {channel} is closed already")
    if isinstance(record.config, SessionConfig):
        transaction, spent, returned = await close_session(
            record, payer=payer, chain=chain, ask=ask
        )
    else:
        transaction, spent, returned = await _close(record, payer, chain, ask)
    return Closed(
        channel=channel,
        spent=spent,
        returned=returned,
        transaction=transaction,
    )


async def _close(
    record: PayerRecord, payer: Payer, chain: Chain, ask: Asker
) -> tuple[str, int, int]:
    """The transaction of the refund, what was spent, and what came back."""
    payer.keys.of(record)  # or raises, before the channel is closed to requests
    if not record.url:
        raise ChannelUnusable(f"channel {record.channel} was never used")
    await payer.channels.inquiry.look_for_deposit(record.channel)
    asked: list[int] = []
    while len(asked) < _CORRECTIONS_MAX:
        cumulative = await _closing_amount(record, payer)
        if cumulative is None:
            return "", record.ledger.spent, 0
        asked.append(cumulative)
        said = await _ask_for_refund(record, cumulative, payer, ask)
        if isinstance(said, str):
            return said, *await _book_return(record, payer, chain)
        shown = TotalShown(cumulative=cumulative, total=said.total)
        booked = await payer.ledger.book(record.channel, shown)
        payer.ledger.check_honest(record, *booked)
    raise PaymentRejected(
        f"channel {record.channel}: its payee took none of the totals {asked} for its"
        " own: withdraw from it",
        status=402,
    )


async def _ask_for_refund(
    record: PayerRecord, cumulative: int, payer: Payer, ask: Asker
) -> str | Corrected:
    """The transaction, or the total that a strict payee goes by instead."""
    method, _, url = record.url.partition(" ")
    credential = await sign_voucher(
        payer.keys,
        record,
        cumulative,
        kind="refund",
        url=url,
        words=json.loads(record.offer),
    )
    loop = asyncio.get_running_loop()
    deadline = loop.time() + payer.policy.give_up_seconds
    while True:
        answer = await ask(method, url, credential)
        receipt = answer.receipt() if answer else None
        if answer is not None and answer.status == 200 and receipt is not None:
            return receipt.transaction
        if answer is not None and answer.status in (400, 402):
            said = None
            if not record.ledger.tagged:
                said = read_corrected(answer, record, cumulative)
            if said is not None and said.total != cumulative:
                return said
            raise PaymentRejected(_reason(answer), status=answer.status)
        if loop.time() > deadline:
            raise PaymentOutcomeUnknown(
                f"refund of {record.channel}", "the payee does not confirm it"
            )
        await asyncio.sleep(_AGAIN_SECONDS)


async def _closing_amount(record: PayerRecord, payer: Payer) -> int | None:
    """
    The amount that asks: recorded before it is signed, the same when asked again. None
    if there is nothing to ask for.
    """
    (said,) = await payer.ledger.book(record.channel, CloseWanted())
    return None if isinstance(said, Booked) else closing_amount(record, said)


def _reason(answer: Answer) -> str:
    receipt = answer.receipt()
    reason = receipt.error_reason if receipt else None
    return reason or answer.error or f"status {answer.status}"


async def _book_return(
    record: PayerRecord, payer: Payer, chain: Chain
) -> tuple[int, int]:
    """What was spent, and what came back."""
    state = await read_channel(chain, record.channel)
    if state.balance > state.claimed:
        raise PaymentOutcomeUnknown(
            f"refund of {record.channel}",
            "the payee confirms it and the chain does not show it yet: ask again",
        )
    now = await payer.ledger.read(record.channel) or record
    returned = max(0, now.ledger.balance - state.balance)
    back = Returned(host=record.host, amount=scale(returned, record.decimals))
    await payer.ledger.book(
        record.channel, ChannelEmptied(returned=returned), money=(back,)
    )
    return now.ledger.spent, returned
