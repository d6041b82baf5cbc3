"""
Opens sessions and fills them up: once each, recorded first, however often it is asked.

Source: draft-evm-session-00, "Open Verification", "TopUp Verification" and "Error
Responses". What the desk finds wrong with a deposit is said by the draft's problems.
"""

import asyncio
from typing import TypeAlias, assert_never
from weakref import WeakValueDictionary

from agentpay.core.payee_channel import PayeeChannel
from agentpay.core.payee_events import VoucherRefused
from agentpay.errors import (
    SessionFault,
    SessionUnfit,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.session_deposit import Permit2SessionDeposit, TokenSessionDeposit
from agentpay.evm.session_escrow import SessionConfig
from agentpay.evm.session_escrow_abi import SessionOnChain
from agentpay.payee.mpp_offers import UNKNOWN
from agentpay.payee.sales import Refusal
from agentpay.payee.session_books import SessionBooks, SessionCall, fate_of
from agentpay.payee.session_settlement import SessionSettlement
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.types import Address, Asset, Hash32
from agentpay.wire.mpp.evm_session import (
    OpenByAuthorization,
    OpenByHash,
    OpenByPermit2,
    OpenDepositByAuthorization,
    OpenDepositByPermit2,
    TopUpByAuthorization,
    TopUpByHash,
    TopUpByPermit2,
    TopUpDepositByAuthorization,
    TopUpDepositByPermit2,
    TopUpPayload,
)
from agentpay.wire.mpp.evm_session_terms import Opening, ToppingUp
from agentpay.wire.mpp.problem import ProblemKind

ByPayer: TypeAlias = (
    OpenByAuthorization
    | OpenByPermit2
    | OpenDepositByAuthorization
    | OpenDepositByPermit2
    | TopUpByAuthorization
    | TopUpByPermit2
    | TopUpDepositByAuthorization
    | TopUpDepositByPermit2
)
"""What its payer has signed, for us to put on the chain."""

_UNFIT = {
    SessionFault.NOT_OURS: ProblemKind.VERIFICATION_FAILED,
    SessionFault.NOT_SIGNED: ProblemKind.INVALID_SIGNATURE,
    SessionFault.NOT_FOUND: ProblemKind.CHANNEL_NOT_FOUND,
    SessionFault.FINALIZED: ProblemKind.CHANNEL_FINALIZED,
    SessionFault.CLOSE_REQUESTED: ProblemKind.AMOUNT_EXCEEDS_DEPOSIT,
    SessionFault.OTHER_EFFECT: ProblemKind.VERIFICATION_FAILED,
}
_REVERTS = {
    "AmountExceedsDeposit": ProblemKind.AMOUNT_EXCEEDS_DEPOSIT,
    "ChannelNotFound": ProblemKind.CHANNEL_NOT_FOUND,
    "ChannelFinalized": ProblemKind.CHANNEL_FINALIZED,
    "InvalidSignature": ProblemKind.INVALID_SIGNATURE,
    "DepositCollectionFailed": ProblemKind.INSUFFICIENT_BALANCE,
    "ERC20InsufficientBalance": ProblemKind.INSUFFICIENT_BALANCE,
    "ERC20InsufficientAllowance": ProblemKind.INSUFFICIENT_BALANCE,
    "TRANSFER_FROM_FAILED": ProblemKind.INSUFFICIENT_BALANCE,
    "ERC20: transfer amount exceeds balance": ProblemKind.INSUFFICIENT_BALANCE,
}
"""The draft's table; what is in no line of it is `transaction-reverted`."""


def kind_of_revert(error: TransactionFailed) -> ProblemKind:
    """How a client is told that a transaction of its session failed."""
    return _REVERTS.get(error.reason, ProblemKind.TRANSACTION_REVERTED)


class SessionFunding:
    """Opens sessions and tops them up, for one payee."""

    def __init__(
        self,
        *,
        books: SessionBooks,
        settlement: SessionSettlement,
    ) -> None:
        self._books = books
        self._settings = books.settings
        self._desk = settlement.desk
        self._settlement = settlement
        # A lock lives as long as a request holds it, so that nobody can fill this.
        self._locks: WeakValueDictionary[Hash32, asyncio.Lock] = WeakValueDictionary()

    async def look_if_above(self, call: SessionCall) -> None:
        """A voucher for more than we know of: perhaps its payer has topped it up."""
        record = await self._books.look(call)
        if record is not None and call.cumulative > record.ledger.spendable:
            await self._settlement.see_chain(call.channel)

    async def top_up(
        self, call: SessionCall, payload: TopUpPayload, source: Address | None
    ) -> Refusal:
        """
        Take a deposit that comes without a voucher.

        Its signature proves whose it is, the first time. A transaction's hash, which
        everyone can read, proves nothing: it is looked at, and nothing is said of the
        session.
        """
        payer = source
        if not isinstance(payload, TopUpByHash):
            payer = payload.authorization.payer
        if payer != call.config.payer:
            kind = ProblemKind.SIGNER_MISMATCH
            detail = f"{payer} is not the payer of this session"
            return self._books.refuse(call, kind, detail)
        before = await self._books.look(call)
        refusal = await self.fund(call, payload)
        if refusal is not None:
            return refusal
        after = await self._books.look(call)
        if after is None or before is None or isinstance(payload, TopUpByHash):
            return _made()
        # Of a deposit that was made before, the chain shows what was signed, too.
        if after.ledger.balance <= before.ledger.balance:
            return _made()
        return self._books.taken(after, call, proven=True)

    async def fund(
        self, call: SessionCall, deposit: Opening | ToppingUp
    ) -> Refusal | None:
        """Have a deposit on the chain, once, however often it is presented."""
        try:
            if isinstance(deposit, OpenByHash | TopUpByHash):
                refusal = await self._confirm(call, deposit)
            else:
                # One after another. What proves nobody never waits in this line.
                lock = self._locks.setdefault(call.channel, asyncio.Lock())
                async with lock:
                    refusal = await self._have(call, deposit)
        except SessionUnfit as error:
            return await self._failed(call, _UNFIT[error.fault], str(error))
        except TransactionFailed as error:
            return await self._failed(call, kind_of_revert(error), str(error))
        except TransactionOutcomeUnknown as error:
            detail = f"transaction {error.transaction}: send the same again"
            return self._books.refuse(call, UNKNOWN, detail, status=503)
        if refusal is None:
            await self._settlement.see_chain(call.channel)
        return refusal

    async def _have(self, call: SessionCall, deposit: ByPayer) -> Refusal | None:
        """
        Raises:
            SessionUnfit, TransactionFailed, TransactionOutcomeUnknown: See the desk.
        """
        known = await self._books.look(call) is not None
        signed = _signed(deposit, call.config, self._settings.asset)
        least = max(self._settings.min_deposit, call.terms.first)
        if not known and signed.amount < least:
            kind = ProblemKind.INSUFFICIENT_BALANCE
            detail = f"a session is opened with {least} at least, not {signed.amount}"
            return self._books.refuse(call, kind, detail)
        await self._desk.verify(signed)
        if not known:
            state = await self._settlement.look(call.config)
            if not await self._open_record(call, state, unused=not state.exists):
                return self._forgotten(call)
        settled = await self._desk.deposit(signed)
        if settled.transaction:
            call.transaction = Hash32(settled.transaction)
        return None

    async def _confirm(
        self, call: SessionCall, sent: OpenByHash | TopUpByHash
    ) -> Refusal | None:
        """What a payer has sent itself, and paid the gas of."""
        known = await self._books.look(call) is not None
        added = sent.additional_deposit if isinstance(sent, TopUpByHash) else None
        await self._desk.confirm(call.config, sent.transaction, added=added)
        if not known:
            state = await self._settlement.look(call.config)
            if state.unsettled < call.terms.first:
                kind = ProblemKind.INSUFFICIENT_BALANCE
                detail = f"the session holds {state.unsettled}, less than one request"
                return self._books.refuse(call, kind, detail)
            if not await self._open_record(call, state, unused=not state.settled):
                return self._forgotten(call)
        call.transaction = sent.transaction
        return None

    async def _open_record(
        self, call: SessionCall, state: SessionOnChain, *, unused: bool
    ) -> bool:
        """
        Record a session before money is put in; False if we lost what it was.

        One that serves in parallel has used amounts, which a store that forgot it does
        not know any more (rule 6). So what we are to open is not open yet, and nothing
        was settled of what its payer opened.
        """
        if state.finalized or (call.config.tagged and not unused):
            return False
        ledger = PayeeChannel(
            tagged=call.config.tagged,
            window=self._settings.parallel.window,
            in_flight_max=self._settings.parallel.in_flight_max,
            balance=state.deposit,
            claimed=state.settled,
            charged=state.settled,
            highest=state.settled,
            floor=state.settled,
            pays_whole=True,
        )
        fresh = PayeeRecord(
            channel=call.channel,
            chain=self._settings.asset.chain,
            config=call.config,
            ledger=ledger,
            chain_seen_at=self._books.now(),
        )

        def decide(record: PayeeRecord | None) -> PayeeStep[None]:
            return PayeeStep(record=record or fresh, answer=None)

        await self._books.store.update(call.channel, decide)
        return True

    def _forgotten(self, call: SessionCall) -> Refusal:
        detail = "this session is older than our books: open another, with another salt"
        return self._books.refuse(call, ProblemKind.CHANNEL_NOT_FOUND, detail)

    async def _failed(
        self, call: SessionCall, kind: ProblemKind, detail: str
    ) -> Refusal:
        """A deposit that fails takes its voucher with it, which must not come again."""
        outcome = None
        if call.signature:
            refused = VoucherRefused(cumulative=call.cumulative)
            record, _ = await self._books.update(call, refused)
            if record is not None:
                fate, charged = fate_of(record.ledger, call.cumulative)
                outcome = self._books.outcome(record, call, fate, charged)
        return self._books.refuse(call, kind, detail, outcome=outcome)


def _made() -> Refusal:
    """A deposit is there, and nothing is said to whoever asks for it."""
    return Refusal(status=200, headers={"cache-control": "no-store"}, body=b"")


def _signed(
    deposit: ByPayer, config: SessionConfig, asset: Asset
) -> TokenSessionDeposit | Permit2SessionDeposit:
    """What the desk puts on the chain."""
    match deposit:
        case (
            OpenByAuthorization()
            | OpenDepositByAuthorization()
            | TopUpByAuthorization()
            | TopUpDepositByAuthorization()
        ):
            authorization = deposit.authorization
            return TokenSessionDeposit(
                config=config,
                asset=asset,
                payer=authorization.payer,
                amount=authorization.value,
                valid_after=authorization.valid_after,
                valid_before=authorization.valid_before,
                signature=deposit.signature,
                top_up_salt=None if deposit.action == "open" else deposit.salt,
            )
        case (
            OpenByPermit2()
            | OpenDepositByPermit2()
            | TopUpByPermit2()
            | TopUpDepositByPermit2()
        ):
            permit = deposit.authorization
            return Permit2SessionDeposit(
                config=config,
                asset=asset,
                payer=permit.payer,
                amount=permit.permitted.amount,
                nonce=permit.nonce,
                deadline=permit.deadline,
                signature=deposit.signature,
                opens=deposit.action == "open",
            )
        case _:
            assert_never(deposit)
