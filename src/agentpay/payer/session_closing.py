"""
Closing a session of MPP with its payee: by a voucher of exactly what was spent.

Source: draft-evm-session-00, "Close Payload" and "Cooperative Close"; rule 23 of
`docs/parallel-channels.md`. The contract pays the whole voucher and gives the rest back
in the same transaction. What came back is read from the chain: a receipt is a hint.
"""

import asyncio
import json

from agentpay.core.exchange import Trouble
from agentpay.core.payer_channel import (
    ChannelEmptied,
    CloseWanted,
    Issued,
    PayerAnswer,
    Unusable,
    Wait,
)
from agentpay.core.payer_session_rules import CloseCorrected
from agentpay.errors import (
    ChannelUnusable,
    MalformedMessage,
    PaymentOutcomeUnknown,
    PaymentRejected,
)
from agentpay.onchain import read_session
from agentpay.payer.payer import Payer
from agentpay.payer.payment import Answer, Asker
from agentpay.payer.session_ending import book_end
from agentpay.payer.session_payment import reason_of, trouble_of
from agentpay.payer.session_signing import framed_in, sign_session_voucher
from agentpay.ports import Chain
from agentpay.records import PayerRecord, session_config
from agentpay.wire.mpp.challenge import Challenge, make_challenge
from agentpay.wire.mpp.credential import Credential, format_credential
from agentpay.wire.mpp.evm_write import close_payload
from agentpay.wire.mpp.receipt import SessionReceipt

_AGAIN_SECONDS = 0.2


async def close_session(
    record: PayerRecord, *, payer: Payer, chain: Chain, ask: Asker
) -> tuple[str, int, int]:
    """
    Ask for the close until it is on the chain: its transaction, what the payee got in
    all, and what came back.

    Raises: as `close_channel`, and
        PayeeMisbehaved: The payee claims, or took, more than we owe it.
    """
    payer.keys.of(record)  # or raises, before the session is closed to requests
    if not record.url:
        raise ChannelUnusable(f"session {record.channel} was never used")
    await payer.sessions.inquiry.look_for_deposit(record.channel)
    exists = (await read_session(chain, session_config(record))).exists
    now = await payer.ledger.read(record.channel) or record
    if not exists and now.ledger.balance:
        raise ChannelUnusable(f"session {record.channel} holds nothing")
    (said,) = await payer.ledger.book(record.channel, CloseWanted())
    if not exists:  # its deposit was never made, and its signature is void
        closing_amount(record, said)
        await payer.ledger.book(record.channel, ChannelEmptied(returned=0))
        return "", 0, 0
    transaction = await _Closing(record, payer, ask, closing_amount(record, said)).ask()
    state = await read_session(chain, session_config(record))
    if not state.finalized and transaction is None:
        raise PaymentRejected(
            f"the payee has no session {record.channel}: withdraw by time", status=410
        )
    if not state.finalized:
        raise PaymentOutcomeUnknown(
            f"close of {record.channel}",
            "the payee confirms it and the chain does not show it yet: ask again",
        )
    returned = await book_end(record, state, payer.ledger)
    return transaction or "", state.settled, returned


class _Closing:
    """What is said until a session is closed."""

    def __init__(
        self, record: PayerRecord, payer: Payer, ask: Asker, amount: int
    ) -> None:
        self._record = record
        self._payer = payer
        self._ask = ask
        self._amount = amount
        try:
            words = json.loads(record.offer)
            self._challenge: Challenge = make_challenge(words, name="offer")
        except (ValueError, MalformedMessage) as error:
            raise ChannelUnusable(f"session {record.channel}: {error}") from error

    async def ask(self) -> str | None:
        """The transaction of the close; None if the payee knows no such session."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._payer.policy.give_up_seconds
        method, _, url = self._record.url.partition(" ")
        while True:
            field = self._challenge.credential_field
            answer = await self._ask(method, url, await self._credential(), field=field)
            if answer is not None:
                receipt = answer.mpp_receipt(SessionReceipt)
                if receipt is not None and receipt.channel_id == self._record.channel:
                    return receipt.tx_hash or ""
                if trouble_of(answer.problem) is Trouble.GONE:
                    return None
                await self._learn(answer)
            if loop.time() > deadline:
                raise PaymentOutcomeUnknown(
                    f"close of {self._record.channel}", "the payee does not confirm it"
                )
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _credential(self) -> str:
        record, amount = self._record, self._amount
        signature = await sign_session_voucher(self._payer.keys, record, amount)
        payload = close_payload(record.channel, amount, signature)
        return format_credential(Credential(challenge=self._challenge, payload=payload))

    async def _learn(self, answer: Answer) -> None:
        """
        Another challenge, or another amount, to ask with.

        Raises:
            PaymentRejected: The payee refuses.
            PayeeMisbehaved: It wants more than we owe it.
        """
        trouble = trouble_of(answer.problem)
        if trouble is Trouble.CHALLENGE:
            fresh = framed_in(answer, session_config(self._record))
            if fresh is not None:
                self._challenge = fresh
                return
        told = answer.problem.spent if answer.problem is not None else None
        if trouble is Trouble.REFUSED and told not in (None, self._amount):
            await self._correct(told or 0)
        elif trouble in (Trouble.REFUSED, Trouble.REVERTED, Trouble.CHALLENGE):
            raise PaymentRejected(reason_of(answer), status=answer.status)

    async def _correct(self, told: int) -> None:
        """Rule 23: it may have charged less than we had to assume, and never more."""
        record, ledger = self._record, self._payer.ledger
        (said,) = await ledger.book(record.channel, CloseCorrected(charged=told))
        ledger.check_honest(record, said)
        self._amount = closing_amount(record, said)


def closing_amount(record: PayerRecord, said: PayerAnswer) -> int:
    """
    The amount of the voucher that asks for a close.

    Raises:
        ChannelUnusable: It cannot be closed now, or ever.
    """
    if isinstance(said, Issued):
        return said.cumulative
    why = said.reason if isinstance(said, Wait | Unusable) else str(said)
    raise ChannelUnusable(f"channel {record.channel} cannot be closed now: {why}")
