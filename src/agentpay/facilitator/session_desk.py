"""
Opens, fills up, settles and closes MPP's sessions on the payee's own gas-paying keys.

Only a session's payee may settle and close it. Where its account pays the gas itself,
it calls the escrow; where another key does, the payee signs orders that anyone may
send, and many go into one transaction.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Final

from agentpay.errors import (
    ChainError,
    GasMissing,
    GasTooExpensive,
    SessionFault,
    SessionUnfit,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm import session_escrow as session
from agentpay.evm import session_escrow_abi as escrows
from agentpay.evm.addresses import MULTICALL3
from agentpay.evm.calls import Call, Receipt
from agentpay.evm.multicall3_abi import aggregate_call, decode_results
from agentpay.evm.session_deposit import SessionDeposit, deposited_in
from agentpay.evm.session_escrow import Escrow, SessionConfig
from agentpay.evm.session_escrow_abi import SessionOnChain
from agentpay.evm.session_escrow_events import ChannelClosed, events_in
from agentpay.evm.session_escrow_events import Settled as SettledEvent
from agentpay.facilitator.deposit_gas import DepositGas
from agentpay.facilitator.gas import SessionGas
from agentpay.facilitator.senders import SenderPool
from agentpay.onchain import is_signed, is_used
from agentpay.ports import Chain, Signer
from agentpay.records import Settled
from agentpay.sending_ports import Sender
from agentpay.session_onchain import (
    check_escrow,
    find_session_closed,
    find_session_deposit,
    read_session,
)
from agentpay.session_ports import SessionClosed, SessionOrder
from agentpay.types import Address, Asset, Hash32

_log = logging.getLogger(__name__)

ORDERS_MAX: Final = 100
"""Orders in one transaction; with 80,000 gas each, half of what one may use."""
_ORDER_SECONDS = 3600
"""How long the payee's orders stay valid, in the chain's time."""
_CLOSING = 1 << 128
"""Orders to close have numbers of their own, above all amounts."""
_POLL_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Anybody may have us wait for a transaction, so that waiting asks little."""


class EscrowDesk:
    """The sessions of one payee, on one chain. Implements `SessionDesk`."""

    def __init__(
        self,
        *,
        chain: Chain,
        senders: Sequence[Sender],
        payee: Signer,
        asset: Asset,
        escrow: Escrow,
        gas: SessionGas | None = None,
        deposits: DepositGas | None = None,
    ) -> None:
        """
        `senders` pay gas, and `payee` signs for the account that sessions pay.
        `deposits` bounds what deposits cost.

        Raises:
            ConfigurationError: There are no senders, or one twice.
        """
        self._chain = chain
        self._senders = SenderPool(senders)
        self._payee = payee
        self._asset = asset
        self._escrow = escrow
        self._gas = gas or SessionGas()
        self._deposits = deposits or DepositGas(chain)
        self._grace = 0
        self._together = False

    @property
    def payee(self) -> Address:
        """See `SessionDesk.payee`."""
        return self._payee.address

    @property
    def escrow(self) -> Escrow:
        """See `SessionDesk.escrow`."""
        return self._escrow

    @property
    def grace_seconds(self) -> int:
        """See `SessionDesk.grace_seconds`; 0 before the start."""
        return self._grace

    async def start(self) -> None:
        """See `SessionDesk.start`."""
        if not self._grace:
            self._together = bool(await self._chain.code(MULTICALL3))
            self._grace = await check_escrow(self._chain, self._escrow)

    async def read(
        self, config: SessionConfig, *, block: int | None = None
    ) -> SessionOnChain:
        """See `SessionDesk.read`."""
        return await read_session(self._chain, config, block=block)

    # What payers put in.

    async def verify(self, deposit: SessionDeposit) -> None:
        """See `SessionDesk.verify`."""
        config = deposit.config
        self._check_ours(config)
        digest, signature = deposit.digest(), deposit.signature
        if not await is_signed(self._chain, deposit.payer, digest, signature):
            what = f"the deposit to session {config.channel}"
            raise SessionUnfit(what, SessionFault.NOT_SIGNED)
        state = await self.read(config)
        if state.exists or not deposit.opens:
            _check_fit(config, state)
        if deposit.opens and state.exists:
            return  # this one, or another that opened the same session
        if await is_used(self._chain, deposit) and await self._find(deposit):
            return
        gas = self._gas_of(deposit)
        await self._senders.simulate(deposit.call(), gas_max=gas)
        await self._deposits.check(self._senders.addresses[0], gas)

    async def deposit(self, deposit: SessionDeposit) -> Settled:
        """See `SessionDesk.deposit`."""
        call, gas = deposit.call(), self._gas_of(deposit)
        send = partial(self._senders.send, call, gas_max=gas)
        try:
            account = self._senders.addresses[0]
            receipt = await self._deposits.send(account, gas, send)
        except TransactionFailed:
            # Perhaps it was sent before, or by somebody else.
            made = await self._find(deposit)
            if made is None:
                raise
            return made
        amounts = deposited_in(deposit.config, receipt.logs, opens=deposit.opens)
        if deposit.amount not in amounts:
            raise _no_event(call, receipt)
        settled = Settled(transaction=receipt.transaction, amount=deposit.amount)
        _log.info("%s in %s", call.what, settled.transaction)
        return settled

    async def confirm(
        self,
        config: SessionConfig,
        transaction: Hash32,
        *,
        added: int | None = None,
        wait_seconds: float = 10,
    ) -> Settled:
        """See `SessionDesk.confirm`."""
        self._check_ours(config)
        what = f"transaction {transaction} for session {config.channel}"
        deadline = asyncio.get_running_loop().time() + wait_seconds
        pauses = chain(_POLL_SECONDS, repeat(_POLL_SECONDS[-1]))
        while True:
            receipt = await self._chain.receipt(transaction)
            # A node that is behind may know the one and not yet the other.
            state = await self.read(config) if receipt is not None else None
            if receipt is not None and state is not None:
                amounts = deposited_in(config, receipt.logs, opens=added is None)
                if not amounts or added not in (None, *amounts):
                    raise SessionUnfit(what, SessionFault.OTHER_EFFECT)
                if state.exists:
                    break
            if asyncio.get_running_loop().time() > deadline:
                raise TransactionOutcomeUnknown(what, transaction=transaction)
            await asyncio.sleep(next(pauses))
        _check_fit(config, state)
        amount = amounts[0] if added is None else added
        return Settled(transaction=transaction, amount=amount)

    def _check_ours(self, config: SessionConfig) -> None:
        """
        Raises:
            SessionUnfit: In another contract, to another payee, or of another token.
        """
        terms = config.terms
        given = (config.escrow, terms.payee, terms.token)
        if given != (self._escrow, self.payee, self._asset.address):
            what = f"session {config.channel}"
            raise SessionUnfit(what, SessionFault.NOT_OURS)

    async def _find(self, deposit: SessionDeposit) -> Settled | None:
        """What made a deposit; of one that opens, what opened its session."""
        if not deposit.opens and not await is_used(self._chain, deposit):
            return None
        made = await find_session_deposit(self._chain, deposit)
        if made is None and deposit.opens:
            state = await self.read(deposit.config)
            if state.exists:  # longer ago than logs are looked through
                return Settled(transaction="", amount=state.deposit)
        return made

    def _gas_of(self, deposit: SessionDeposit) -> int:
        return self._gas.opening if deposit.opens else self._gas.top_up

    # What the payee takes out.

    async def settle(
        self, orders: Sequence[SessionOrder], *, deadline: int = 0
    ) -> Mapping[Hash32, Settled]:
        """See `SessionDesk.settle`."""
        size = 1 if self._pays_gas or not self._together else ORDERS_MAX
        parts = [list(orders[n : n + size]) for n in range(0, len(orders), size)]
        return await self._settle_parts(parts, deadline)

    async def _settle_parts(
        self, parts: Sequence[list[SessionOrder]], deadline: int
    ) -> dict[Hash32, Settled]:
        """Each by itself, and what becomes of one holds up no other."""
        outcomes = await asyncio.gather(
            *(self._settle_part(part, deadline) for part in parts),
            return_exceptions=True,
        )
        settled: dict[Hash32, Settled] = {}
        failures: list[BaseException] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                failures.append(outcome)
            else:
                settled |= outcome
        for failure in failures:
            if not settled or not isinstance(failure, ChainError):
                raise failure
            _log.warning("sessions could not be settled: %s", failure)
        return settled

    async def close(self, order: SessionOrder) -> SessionClosed:
        """See `SessionDesk.close`."""
        config = order.config
        call = await self._call(order, closes=True)
        try:
            receipt = await self._senders.send(
                call, gas_max=self._gas.close, by=self._sends_by
            )
        except TransactionFailed:
            closed = await find_session_closed(self._chain, config)
            if closed is None:
                raise
            return closed
        for event in events_in(receipt.logs, config.escrow):
            if isinstance(event, ChannelClosed) and event.channel == config.channel:
                closed = SessionClosed(
                    transaction=receipt.transaction,
                    settled=event.settled,
                    refunded=event.refunded,
                )
                _log.info(
                    "closed session %s: settled %d, refunded %d to %s",
                    config.channel,
                    closed.settled,
                    closed.refunded,
                    config.payer,
                )
                return closed
        raise _no_event(call, receipt)

    @property
    def _pays_gas(self) -> bool:
        return self.payee in self._senders.addresses

    @property
    def _sends_by(self) -> Address | None:
        """Who must send a call of the payee's; anybody, if it signs an order."""
        return self.payee if self._pays_gas else None

    async def _settle_part(
        self, orders: list[SessionOrder], deadline: int
    ) -> dict[Hash32, Settled]:
        """In one transaction, or in halves where that has too much gas, or costs it."""
        calls = [await self._call(order, closes=False) for order in orders]
        good = orders
        if len(orders) == 1:
            (call,) = calls
        else:
            good, calls = await self._good(orders, calls)
            if not good:
                return {}
            call = aggregate_call(calls)
        gas_max = self._gas.settle * len(good)
        try:
            receipt = await self._senders.send(
                call, gas_max=gas_max, by=self._sends_by, deadline=deadline
            )
        except (TransactionFailed, GasTooExpensive, GasMissing):
            if len(good) == 1:
                raise
            half = len(good) // 2
            return await self._settle_parts([good[:half], good[half:]], deadline)
        return _settled_in(good, receipt)

    async def _good(
        self, orders: list[SessionOrder], calls: list[Call]
    ) -> tuple[list[SessionOrder], list[Call]]:
        """Those that would go through: one that cannot holds up nobody."""
        together = aggregate_call(calls)
        (answer,) = await self._chain.read([together])
        try:
            results = decode_results(answer, len(calls))
        except ValueError as error:
            raise TransactionFailed(together.what, reason=str(error)) from error
        pairs = [
            (order, call)
            for order, call, result in zip(orders, calls, results, strict=True)
            if result.succeeded
        ]
        return [order for order, _ in pairs], [call for _, call in pairs]

    async def _call(self, order: SessionOrder, *, closes: bool) -> Call:
        config, voucher = order.config, order.voucher
        channel, escrow = config.channel, config.escrow
        if self._pays_gas:
            make = escrows.close_call if closes else escrows.settle_call
            return make(channel, voucher.amount, voucher.signature, escrow)
        hashed = session.close_digest if closes else session.settle_digest
        ordered = (
            escrows.close_with_authorization_call
            if closes
            else escrows.settle_with_authorization_call
        )
        # The same order whenever it is given: sent twice, it is carried out once.
        nonce = voucher.amount + (_CLOSING if closes else 0)
        head = await self._chain.head()
        deadline = head.timestamp + _ORDER_SECONDS
        digest = hashed(
            channel, voucher.amount, nonce=nonce, deadline=deadline, escrow=escrow
        )
        return ordered(
            channel,
            voucher.amount,
            nonce=nonce,
            deadline=deadline,
            payee_signature=await self._payee.sign_digest(digest, chain=escrow.chain),
            voucher_signature=voucher.signature,
            escrow=escrow,
        )


def _check_fit(config: SessionConfig, state: SessionOnChain) -> None:
    """
    Raises:
        SessionUnfit: It is not there, is over, or its payer leaves.
    """
    what = f"session {config.channel}"
    if not state.exists:
        raise SessionUnfit(what, SessionFault.NOT_FOUND)
    if state.finalized:
        raise SessionUnfit(what, SessionFault.FINALIZED)
    if state.close_requested_at:
        raise SessionUnfit(what, SessionFault.CLOSE_REQUESTED)


def _settled_in(
    orders: Sequence[SessionOrder], receipt: Receipt
) -> dict[Hash32, Settled]:
    """Which of these orders a transaction carried out."""
    settled: dict[Hash32, Settled] = {}
    for order in orders:
        config = order.config
        for event in events_in(receipt.logs, config.escrow):
            if not isinstance(event, SettledEvent) or event.channel != config.channel:
                continue
            if event.settled != order.voucher.amount:
                continue
            settled[config.channel] = Settled(
                transaction=receipt.transaction, amount=event.paid
            )
            _log.info("settled %d of session %s", event.paid, config.channel)
    return settled


def _no_event(call: Call, receipt: Receipt) -> TransactionFailed:
    return TransactionFailed(
        call.what,
        reason="it left no event of that",
        transaction=receipt.transaction,
    )
