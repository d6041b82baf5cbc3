"""
A facilitator for other people's payees: `/verify`, `/settle` and `/supported`.

It pays gas for strangers, so it does so for listed assets (and payees) only, sends
nothing but calls that it built itself from what it read, and simulates each first.
"""

from dataclasses import dataclass
from typing import Final, assert_never

from agentpay.errors import ChainError, ConfigurationError
from agentpay.evm.batch_settlement_abi import ChannelOnChain
from agentpay.evm.hashing import checksummed
from agentpay.facilitator.channel_desk import ChannelDesk
from agentpay.facilitator.channel_orders import ChannelOrders
from agentpay.facilitator.once import Refused
from agentpay.facilitator.transfers import TransferAsked, TransferDesk
from agentpay.onchain import read_channel
from agentpay.ports import Chain
from agentpay.records import Settled
from agentpay.types import Address, Asset, ChainId, Hash32
from agentpay.wire import x402_facilitator as wire
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    EXACT,
    UPTO,
    DepositPayload,
    ExactPayload,
    Permit2Payload,
    RefundPayload,
    VoucherPayload,
)
from agentpay.wire.x402_facilitator import (
    ClaimPayload,
    FacilitatorRequest,
    RefundOrder,
    SettlePayload,
)
from agentpay.wire.x402_transfers import TransferPayload

SCHEMES: Final = (EXACT, UPTO, BATCH_SETTLEMENT)
"""What a facilitator can settle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FacilitatorTerms:
    """Whom a facilitator pays gas for."""

    assets: tuple[Asset, ...]
    """Checked on chain at the start; all of one chain."""
    payees: frozenset[Address] | None = None
    """None is anybody."""
    amount_min: int = 1
    """What moves less than this at most is not worth its gas; in base units."""
    wallet_factories: frozenset[Address] = frozenset()
    """Called to make the wallets of payers (ERC-6492); none is none."""
    schemes: tuple[str, ...] = SCHEMES

    def __post_init__(self) -> None:
        chains = {asset.chain for asset in self.assets}
        if len(chains) != 1:
            raise ConfigurationError(
                f"a facilitator has assets of one chain, not of {len(chains)}"
            )
        for scheme in self.schemes:
            if scheme not in SCHEMES:
                raise ConfigurationError(
                    f"no facilitator settles {scheme!r}: it is one of"
                    f" {', '.join(SCHEMES)}"
                )
        if not self.schemes:
            raise ConfigurationError("a facilitator has at least one scheme")
        if self.amount_min < 1:
            raise ConfigurationError(
                f"amount_min is in base units, 1 or more, not {self.amount_min}"
            )

    @property
    def chain(self) -> ChainId:
        return self.assets[0].chain


class FacilitatorService:
    """Answers payees; every answer is a message of x402."""

    def __init__(
        self,
        *,
        terms: FacilitatorTerms,
        chain: Chain,
        signers: tuple[Address, ...],
        authorizer: Address | None,
        sponsors: bool = False,
        transfers: TransferDesk,
        channels: ChannelDesk,
        orders: ChannelOrders,
    ) -> None:
        self._terms = terms
        self._chain = chain
        self._signers = signers
        self._authorizer = authorizer
        self._sponsors = sponsors
        self._assets = {asset.address: asset for asset in terms.assets}
        self._transfers = transfers
        self._channels = channels
        self._orders = orders

    def supported(self) -> JsonObject:
        """The body of `/supported`."""
        return wire.supported(
            self._terms.chain,
            schemes=self._terms.schemes,
            signers=self._signers,
            authorizer=self._authorizer,
            sponsors=self._sponsors,
        )

    async def verify(self, request: FacilitatorRequest) -> JsonObject:
        """
        The body of `/verify`.

        Raises:
            ChainError: The chain could not be asked; nothing is known.
        """
        wrong = self._wrong(request)
        if wrong is not None:
            return wire.invalid(wrong.code, wrong.message)
        wanted, payload = request.payment_requirements, request.payment_payload.payload
        asset = self._assets[wanted.asset]
        match payload:
            case ExactPayload() | Permit2Payload():
                asked = _transfer(request, payload, asset)
                refused = await self._transfers.verify(asked)
                if refused is None:
                    return wire.valid(asked.payer)
                return _invalid(refused, asked.payer)
            case VoucherPayload() | DepositPayload() | RefundPayload():
                payer = payload.channel_config.payer
                state = await self._channels.verify(
                    payload, wanted, asset, request.payment_payload.extensions
                )
                if isinstance(state, ChannelOnChain):
                    channel = payload.voucher.channel_id
                    return wire.valid(payer, wire.snapshot(channel, state))
                return _invalid(state, payer, prefix=wire.CHANNEL_PREFIX)
            case ClaimPayload() | SettlePayload() | RefundOrder():
                return wire.invalid(wire.CHANNEL_PREFIX + "payload_type")
            case _:
                assert_never(payload)

    async def settle(self, request: FacilitatorRequest) -> JsonObject:
        """
        The body of `/settle`. What is not known is `settlement_pending`.

        Raises:
            ChainError: Nothing was sent.
            StoreError: Nothing was sent, or its result is not kept.
        """
        wrong = self._wrong(request)
        if wrong is not None:
            return self._answer(wrong)
        wanted, payload = request.payment_requirements, request.payment_payload.payload
        asset = self._assets[wanted.asset]
        channels = wire.CHANNEL_PREFIX
        match payload:
            case ExactPayload() | Permit2Payload():
                asked = _transfer(request, payload, asset)
                outcome = await self._transfers.settle(asked)
                return self._answer(outcome, payer=asked.payer)
            case DepositPayload():
                outcome = await self._channels.deposit(
                    payload, wanted, asset, request.payment_payload.extensions
                )
                payer, channel = (
                    payload.channel_config.payer,
                    payload.voucher.channel_id,
                )
                extra = await self._state(channel, outcome)
                return self._answer(outcome, payer=payer, prefix=channels, extra=extra)
            case RefundOrder():
                outcome = await self._orders.refund(payload, wanted)
                payer, channel = (
                    payload.channel_config.payer,
                    payload.voucher.channel_id,
                )
                extra = await self._state(channel, outcome)
                return self._answer(outcome, payer=payer, prefix=channels, extra=extra)
            case ClaimPayload():
                outcome = await self._orders.claim(payload, wanted)
                return self._answer(outcome, prefix=channels, moves=False)
            case SettlePayload():
                outcome = await self._orders.settle(payload, wanted, asset)
                return self._answer(outcome, prefix=channels)
            case VoucherPayload() | RefundPayload():
                refused = Refused(code="payload_type")
                return self._answer(refused, prefix=channels)
            case _:
                assert_never(payload)

    def _wrong(self, request: FacilitatorRequest) -> Refused | None:
        """What needs neither chain nor signature, and refuses most strangers."""
        wanted = request.payment_requirements
        if wanted.scheme not in self._terms.schemes:
            return Refused(code=wire.UNSUPPORTED)
        if wanted.network != self._terms.chain:
            return Refused(code="invalid_network")
        if wanted.asset not in self._assets:
            return Refused(
                code="invalid_payment_requirements",
                message=f"no gas is paid here for asset {wanted.asset}",
            )
        payees = self._terms.payees
        if payees is not None and wanted.pay_to not in payees:
            return Refused(
                code="invalid_payment_requirements",
                message=f"no gas is paid here for payee {wanted.pay_to}",
            )
        moved = _most(request)
        if moved is not None and moved < self._terms.amount_min:
            return Refused(
                code="invalid_payment_requirements",
                message=f"less than {self._terms.amount_min} is not worth its gas",
            )
        code = wire.wrong_agreement(request)
        return None if code is None else Refused(code=code)

    async def _state(
        self, channel: Hash32, outcome: Settled | Refused
    ) -> JsonObject | None:
        if isinstance(outcome, Refused):
            return None
        try:
            state = await read_channel(self._chain, channel)
        except ChainError:
            return None  # it is settled all the same, and that must be said
        return {"channelState": wire.snapshot(channel, state)}

    def _answer(
        self,
        outcome: Settled | Refused,
        *,
        payer: Address | None = None,
        prefix: str = "",
        extra: JsonObject | None = None,
        moves: bool = True,
    ) -> JsonObject:
        who = checksummed(payer) if payer else ""
        if isinstance(outcome, Settled):
            return write.receipt(
                success=True,
                chain=self._terms.chain,
                payer=who,
                transaction=outcome.transaction,
                amount=str(outcome.amount) if moves else "",
                extra=extra,
            )
        return write.receipt(
            success=False,
            chain=self._terms.chain,
            payer=who,
            transaction=outcome.transaction,
            error=_code(outcome, prefix),
            message=outcome.message,
        )


def _most(request: FacilitatorRequest) -> int | None:
    """The most that a payer's signature would move; None where it moves nothing."""
    wanted, payload = request.payment_requirements, request.payment_payload.payload
    if wanted.scheme == EXACT:
        return wanted.amount
    match payload:
        case Permit2Payload():  # of `upto`; what allows nothing costs no gas
            return payload.permit2_authorization.permitted.amount or None
        case DepositPayload():
            return payload.deposit.amount
        case _:
            return None


def _transfer(
    request: FacilitatorRequest, payload: TransferPayload, asset: Asset
) -> TransferAsked:
    return TransferAsked(
        payload=payload,
        wanted=request.payment_requirements,
        asset=asset,
        extensions=request.payment_payload.extensions,
    )


def _code(refused: Refused, prefix: str) -> str:
    general = refused.code in GENERAL_CODES
    return refused.code if general else prefix + refused.code


def _invalid(refused: Refused, payer: Address, *, prefix: str = "") -> JsonObject:
    code = _code(refused, prefix)
    return wire.invalid(code, refused.message, payer=checksummed(payer))


GENERAL_CODES = frozenset({wire.PENDING, "duplicate_settlement", wire.UNSUPPORTED})
"""Codes that are the same in every scheme."""
