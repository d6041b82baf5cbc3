"""
What was left open: vouchers without a final answer, deposits that nobody carries.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping

from agentpay.core.budget import Released, Spent
from agentpay.core.exchange import Next
from agentpay.core.payer_channel import DepositArrived, DepositLapsed
from agentpay.errors import AgentPayError, ChannelUnusable, PaymentOutcomeUnknown
from agentpay.evm import eip3009_abi as tokens
from agentpay.evm.batch_settlement import deposit_nonce
from agentpay.payer.channel_payment import ChannelPayment
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.payment import Asker
from agentpay.payer.policy import Policy, scale
from agentpay.payer.signing import sign_voucher
from agentpay.ports import Chain, Signer
from agentpay.records import PayerRecord
from agentpay.types import ChainId, Hash32

_ASK_AGAIN_SECONDS = 0.2


class Inquiry:
    """Asks payees and chains, for one payer."""

    def __init__(
        self,
        *,
        signer: Signer,
        ledger: PayerLedger,
        policy: Policy,
        chains: Mapping[ChainId, Chain],
        ask: Asker,
    ) -> None:
        self._signer = signer
        self._ledger = ledger
        self._policy = policy
        self._chains = chains
        self._ask = ask
        self._checked: set[Hash32] = set()
        self._checking = asyncio.Lock()
        self._questions: set[asyncio.Task[None]] = set()

    def trust(self, channel: Hash32) -> None:
        """This channel is new: there is nothing to ask about it."""
        self._checked.add(channel)

    async def check(self, channel: Hash32) -> bool:
        """
        Before a channel from the store signs anything: ask how its payee sees it.

        A database restored from a backup would sign amounts again that were signed
        already; the payee's own total gives it away (and the channel is stopped).
        False if the payee does not know the channel: use another.
        """
        if channel in self._checked:
            return True
        async with self._checking:
            return channel in self._checked or await self._agrees(channel)

    async def _agrees(self, channel: Hash32) -> bool:
        record = await self._ledger.read(channel)
        if record is None:
            return False
        if record.ledger.tagged:
            await self.look_for_deposit(channel)
            open_amounts = [ticket.cumulative for ticket in record.ledger.open]
            for cumulative in open_amounts or [record.ledger.highest]:
                if cumulative and not await self.until_final(record, cumulative):
                    return False
        self._checked.add(channel)
        return True

    async def ask_later(self, payment: ChannelPayment) -> None:
        """Ask about a voucher in the background until its outcome is known."""
        if not payment.record.ledger.tagged:
            return  # a busy lane is set aside (rule 20)

        async def settle() -> None:
            # What stays open is asked again after a restart.
            with contextlib.suppress(AgentPayError):
                await self.until_final(payment.record, payment.cumulative)

        task = asyncio.create_task(settle(), name=f"ask about {payment.id}")
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    async def until_final(self, record: PayerRecord, cumulative: int) -> bool:
        """
        Find out what became of a voucher; False if the payee does not know the channel.

        Raises:
            PaymentOutcomeUnknown: No final answer came in time.
            PayeeMisbehaved: The answer contradicts our books.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._policy.give_up_seconds
        method, _, url = record.url.partition(" ")
        payment = await self._question(record, cumulative, url)
        while url and loop.time() < deadline:
            answer = await self._ask(method, url, payment.credential)
            if answer is not None:
                judged = await payment.book(answer, resent=True)
                if judged.next in (Next.LOST, Next.PAY_AGAIN):
                    return True
                if judged.next is Next.REJECTED:
                    return False
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
        raise PaymentOutcomeUnknown(payment.id, "the payee does not say")

    async def _question(
        self, record: PayerRecord, cumulative: int, url: str
    ) -> ChannelPayment:
        credential = await sign_voucher(
            self._signer,
            record,
            cumulative,
            kind="voucher",
            url=url,
            words=json.loads(record.offer or "{}"),
            query=True,
        )
        ticket = record.ledger.ticket(cumulative)
        return ChannelPayment(
            ledger=self._ledger,
            record=record,
            cumulative=cumulative,
            maximum=ticket.maximum if ticket else 0,
            credential=credential,
            deposit=None,
            leave=_nothing,
        )

    async def look_for_deposit(self, channel: Hash32) -> None:
        """A deposit nobody is carrying any more: did it reach the chain?"""
        record = await self._ledger.read(channel)
        if record is None or record.ledger.deposit is None or record.ledger.open:
            return
        deposit = record.ledger.deposit
        nonce = deposit_nonce(channel, deposit.salt)
        chain = self._chains[record.chain]
        call = tokens.authorization_used_call(
            record.config.token, record.config.payer, nonce
        )
        head = await chain.head()
        (used,) = await chain.read([call], block=head.number)
        hold = f"deposit {deposit.salt}"
        if tokens.decode_uint(used):
            amount = scale(deposit.amount, record.decimals)
            await self._ledger.book(
                channel,
                DepositArrived(salt=deposit.salt),
                money=(Spent(id=hold, amount=amount),),
            )
        elif head.timestamp > deposit.valid_before:
            await self._ledger.book(
                channel,
                DepositLapsed(salt=deposit.salt),
                money=(Released(id=hold),),
            )
        else:
            raise ChannelUnusable(
                f"the deposit of {deposit.amount} to channel {channel} was not made,"
                f" and its signature stays valid until {deposit.valid_before}: until"
                " then it counts as spent"
            )

    async def aclose(self) -> None:
        """Stop asking."""
        for task in list(self._questions):
            task.cancel()
        await asyncio.gather(*self._questions, return_exceptions=True)


async def _nothing(payment: ChannelPayment) -> None:
    del payment
