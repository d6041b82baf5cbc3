"""
Verifies and settles single transfers, `exact` and `upto`, for payees that ask.
"""

from collections.abc import Callable
from typing import Protocol

from agentpay.errors import MalformedMessage, TransactionFailed
from agentpay.evm.calls import Receipt
from agentpay.evm.transfer import Transfer
from agentpay.facilitator.embedded import Facilitator, transfer_result
from agentpay.facilitator.once import Refused, SettledOnce
from agentpay.onchain import find_transfer, is_signed, is_used, read_funds
from agentpay.ports import Chain
from agentpay.records import Settled
from agentpay.types import Address, Asset
from agentpay.wire.x402 import UPTO, ExactPayload, Permit2Payload, Requirements
from agentpay.wire.x402_facilitator import INVALID_PAYLOAD
from agentpay.wire.x402_transfers import (
    read_transfer,
    signature_code,
    wrong_terms,
    wrong_time,
)

_FAILED = "invalid_transaction_state"


class SettlesTransfers(Protocol):
    """Whoever sends transfers: one by one, or many at once."""

    async def settle_transfer(self, transfer: Transfer, amount: int) -> Settled:
        """See `Settler.settle_transfer`."""
        ...


class TransferDesk:
    """Takes single transfers for one facilitator."""

    def __init__(
        self,
        *,
        chain: Chain,
        facilitator: Facilitator,
        sends: SettlesTransfers,
        once: SettledOnce,
        clock: Callable[[], float],
    ) -> None:
        self._chain = chain
        self._facilitator = facilitator
        self._sends = sends
        self._once = once
        self._clock = clock

    async def verify(
        self,
        payload: ExactPayload | Permit2Payload,
        wanted: Requirements,
        asset: Asset,
    ) -> tuple[Address, Refused | None]:
        """Who pays, and why it would not go through."""
        transfer = _read(payload, asset)
        if isinstance(transfer, Refused):
            return _payer(payload), transfer
        refused = await self._wrong(transfer, wanted, amount=wanted.amount)
        if refused is None:
            refused = await self._movement(transfer, transfer.maximum).check()
        return transfer.payer, refused

    async def settle(
        self,
        payload: ExactPayload | Permit2Payload,
        wanted: Requirements,
        asset: Asset,
    ) -> tuple[Address, Settled | Refused]:
        """Who pays, and what was moved or why nothing was."""
        transfer = _read(payload, asset)
        if isinstance(transfer, Refused):
            return _payer(payload), transfer
        signed = transfer.maximum if wanted.scheme == UPTO else wanted.amount
        refused = await self._wrong(transfer, wanted, amount=signed)
        if refused is not None:
            return transfer.payer, refused
        if wanted.amount > transfer.maximum:
            code = "invalid_upto_evm_payload_settlement_exceeds_amount"
            return transfer.payer, Refused(code=code)
        if wanted.amount == 0:  # `upto` that was free in the end
            return transfer.payer, Settled(transaction="", amount=0)
        movement = self._movement(transfer, wanted.amount)
        return transfer.payer, await self._once.settle(movement)

    async def _wrong(
        self, transfer: Transfer, wanted: Requirements, *, amount: int
    ) -> Refused | None:
        """What is wrong with a transfer whatever the chain's state is."""
        code = wrong_terms(transfer, wanted.scheme, pay_to=wanted.pay_to, amount=amount)
        if code is not None:
            return Refused(code=code)
        bound = transfer.facilitator
        if bound is not None and bound not in self._facilitator.addresses:
            return Refused(code="upto_facilitator_mismatch")
        signed = await is_signed(
            self._chain, transfer.payer, transfer.digest(), transfer.signature
        )
        return None if signed else Refused(code=signature_code(transfer))

    def _movement(self, transfer: Transfer, amount: int) -> "TransferMovement":
        return TransferMovement(
            chain=self._chain,
            facilitator=self._facilitator,
            sends=self._sends,
            clock=self._clock,
            transfer=transfer,
            amount=amount,
        )


class TransferMovement:
    """One transfer, of `amount` of what was signed for; see `Movement`."""

    failed_code = _FAILED

    def __init__(
        self,
        *,
        chain: Chain,
        facilitator: Facilitator,
        sends: SettlesTransfers,
        clock: Callable[[], float],
        transfer: Transfer,
        amount: int,
    ) -> None:
        self._chain = chain
        self._facilitator = facilitator
        self._sends = sends
        self._clock = clock
        self._transfer = transfer
        self._amount = amount

    @property
    def id(self) -> str:
        return self._transfer.id

    @property
    def payer(self) -> Address:
        return self._transfer.payer

    @property
    def maximum(self) -> int:
        return self._transfer.maximum

    async def check(self) -> Refused | None:
        """See `Movement.check`; simulated first, and asked why only if it fails."""
        late = wrong_time(self._transfer, int(self._clock()))
        if late is not None:
            return Refused(code=late)
        try:
            await self._facilitator.verify(self._transfer)
        except TransactionFailed as error:
            if await is_used(self._chain, self._transfer):
                return Refused(code=_FAILED, message="it was used or cancelled")
            if await read_funds(self._chain, self._transfer) < self._amount:
                return Refused(code="insufficient_funds")
            return Refused(code=_FAILED, message=error.reason)
        return None

    async def found(self) -> Settled | Refused | None:
        """See `Movement.found`."""
        if not await is_used(self._chain, self._transfer):
            return None
        receipt = await find_transfer(self._chain, self._transfer)
        if receipt is None:
            return Refused(code=_FAILED, message="it was used or cancelled")
        return self.result(receipt)

    async def send(self) -> Settled:
        """See `Movement.send`."""
        return await self._sends.settle_transfer(self._transfer, self._amount)

    def result(self, receipt: Receipt) -> Settled:
        """See `Movement.result`."""
        return transfer_result(self._transfer, receipt)


def _read(payload: ExactPayload | Permit2Payload, asset: Asset) -> Transfer | Refused:
    try:
        return read_transfer(payload, asset)
    except MalformedMessage as error:
        return Refused(code=INVALID_PAYLOAD, message=str(error))


def _payer(payload: ExactPayload | Permit2Payload) -> Address:
    if isinstance(payload, ExactPayload):
        return payload.authorization.payer
    return payload.permit2_authorization.payer
