"""
Sells requests for credentials of MPP's `evm/charge`.

Source: draft-httpauth-payment-00, "Credentials"; draft-evm-charge-00, "Verification
Procedure". A transfer is sold for as any other: a signature buys one answer, whatever
protocol it comes by. A challenge buys one, too: the first transfer that answers it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from agentpay.errors import MalformedMessage
from agentpay.payee.answers import Answers, request_of
from agentpay.payee.charges import Charges
from agentpay.payee.movements import Movement
from agentpay.payee.mpp_offers import Asked, MppTerms, charge_offer, failed, problem
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Refusal
from agentpay.payee.transfer_sale import TransferSale
from agentpay.payee.transfer_sales import TransferSales
from agentpay.ports import PayeeStore
from agentpay.records import PaymentRecord, PaymentStatus
from agentpay.types import Address, ChainId, Hash32
from agentpay.wire.mpp.binding import EchoFault, check_echo
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.credential import Credential
from agentpay.wire.mpp.evm_charge import parse_charge_payload
from agentpay.wire.mpp.problem import ProblemKind, problem_of
from agentpay.wire.mpp.receipt import charge_receipt, format_receipt
from agentpay.wire.mpp.timestamps import parse_time
from agentpay.wire.x402 import EXACT

_KNOWN_SECONDS = 3600
"""How long a challenge is known after it is over: nothing new is taken for it then."""


class ChargeSales:
    """Sells for charges, for one payee."""

    def __init__(
        self,
        *,
        settings: PayeeSettings,
        mpp: MppTerms,
        charges: Charges,
        transfers: TransferSales,
        answers: Answers,
        store: PayeeStore,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._mpp = mpp
        self._charges = charges
        self._transfers = transfers
        self._answers = answers
        self._store = store
        self._clock = clock

    async def answer(
        self, credential: Credential, terms: Terms, asked: Asked
    ) -> "ChargeSale | Refusal":
        """
        Decide what a credential buys.

        Raises:
            ChainError, StoreUnavailable: Nothing was decided.
        """
        echo = credential.challenge
        fault = self._fault(echo, terms, asked)
        if fault not in (None, EchoFault.EXPIRED):
            return self._no_challenge(echo, terms, fault)
        try:
            payload = parse_charge_payload(credential.payload)
            money = await self._charges.read(credential, payload, terms)
        except MalformedMessage as error:
            kind = ProblemKind.MALFORMED_CREDENTIAL
            return self._refuse(echo, terms, kind, str(error))
        # What was taken in time is not refused when it comes again.
        if fault is not None and not await self._is_known(money):
            return self._no_challenge(echo, terms, fault)
        if isinstance(money, str):
            return self._refuse(echo, terms, ProblemKind.VERIFICATION_FAILED, money)
        return await self._sell(money, echo, terms)

    async def _is_known(self, money: Movement | str) -> bool:
        if isinstance(money, str):
            return False
        return await self._store.find_payment(money.id) is not None

    def _fault(self, echo: Challenge, terms: Terms, asked: Asked) -> EchoFault | None:
        """Why a challenge is not for this request; `EXPIRED` if that is all."""
        charge = charge_offer(self._settings, self._mpp, terms)
        if charge is None:
            return EchoFault.REQUEST
        if asked.body is None:
            return EchoFault.DIGEST
        return check_echo(
            echo,
            charge,
            secrets=self._mpp.binding,
            now=int(self._clock()),
            body=asked.body,
        )

    async def _sell(
        self, money: Movement, echo: Challenge, terms: Terms
    ) -> "ChargeSale | Refusal":
        if not await self._take(echo, money, terms):
            return self._used(echo, terms)
        # The chain shows it: it is no other challenge's, and no payment of x402.
        outcome = await self._transfers.sell(money, EXACT, terms, only_for=echo.id)
        if isinstance(outcome, TransferSale):
            return ChargeSale(
                outcome, echo, chain=self._settings.asset.chain, clock=self._clock
            )
        if outcome.status == 402:
            await self._leave(echo, money)
        if not outcome.presented:
            return failed(outcome, challenge_id=echo.id)
        key = _answer_to(echo, outcome.presented)
        earlier = await self._answers.find(key, request_of(terms))
        return replace(self._used(echo, terms), presented=key, earlier=earlier)

    async def _take(self, echo: Challenge, money: Movement, terms: Terms) -> bool:
        """A challenge is for the first good transfer that answers it, durably."""
        taken = PaymentRecord(
            id=_taken_by(echo),
            payer=money.payer,
            amount=terms.maximum,
            resource=money.id,
            owner=self._store.owner,
            started_at=int(self._clock()),
            status=PaymentStatus.DELIVERED,  # it is owed nothing: the transfer is
            good_until=parse_time(echo.expires or "", name="expires") + _KNOWN_SECONDS,
        )
        known = await self._store.begin_payment(taken)
        return known.resource == money.id

    async def _leave(self, echo: Challenge, money: Movement) -> None:
        """Strangers cannot fill the books: what left nothing there takes nothing."""
        if await self._store.find_payment(money.id) is None:
            await self._store.drop_payment(_taken_by(echo), owner=self._store.owner)

    def _used(self, echo: Challenge, terms: Terms) -> Refusal:
        detail = "the challenge was paid for and answered; it buys one answer"
        return self._refuse(echo, terms, ProblemKind.INVALID_CHALLENGE, detail)

    def _no_challenge(
        self, echo: Challenge, terms: Terms, fault: EchoFault | None
    ) -> Refusal:
        kind = problem_of(fault or EchoFault.NOT_OURS)
        detail = f"the challenge is not one for this request: {fault}"
        return self._refuse(echo, terms, kind, detail)

    def _refuse(
        self, echo: Challenge, terms: Terms, kind: ProblemKind, detail: str
    ) -> Refusal:
        return problem(self._settings, terms, kind, detail, challenge_id=echo.id)


def _taken_by(echo: Challenge) -> str:
    return f"challenge {echo.id}"


def _answer_to(echo: Challenge, transfer: str) -> str:
    """The chain shows a transfer to everybody, and never its challenge's id."""
    return f"{transfer} {echo.id}"


class ChargeSale:
    """A charge that may run its request; see `Sale`. Its receipt is MPP's."""

    whole = None

    def __init__(
        self,
        sale: TransferSale,
        echo: Challenge,
        *,
        chain: ChainId,
        clock: Callable[[], float],
    ) -> None:
        self._sale = sale
        self._echo = echo
        self._chain = chain
        self._clock = clock

    @property
    def payer(self) -> Address:
        return self._sale.payer

    @property
    def id(self) -> str:
        return self._sale.id

    @property
    def key(self) -> str:
        return _answer_to(self._echo, self._sale.id)

    @property
    def withheld(self) -> str:
        return self._sale.withheld

    @property
    def maximum(self) -> int:
        return self._sale.maximum

    @property
    def stream(self) -> None:
        """A charge is of all that a request may cost."""

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    async def commit(self, charged: int) -> str | Refusal:
        """See `Sale.commit`. By the draft, no receipt before the money has moved."""
        receipt = await self._sale.commit(charged)
        if isinstance(receipt, Refusal):
            return failed(receipt, challenge_id=self._echo.id)
        settled = self._sale.settled
        if settled is None or not settled.transaction:
            return ""
        return format_receipt(
            charge_receipt(
                challenge_id=self._echo.id,
                chain=self._chain,
                transaction=Hash32(settled.transaction),
                at=int(self._clock()),
            )
        )

    async def delivered(self) -> None:
        """See `Sale.delivered`."""
        await self._sale.delivered()

    async def abandon(self, *, charged: int, failed: bool) -> str:
        """See `Sale.abandon`. MPP's receipts never stand on a failure."""
        await self._sale.abandon(charged=charged, failed=failed)
        return ""
