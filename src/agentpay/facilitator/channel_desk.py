"""
Verifies vouchers, and puts deposits on the chain, for payees that ask.

Source: x402 `specs/schemes/batch-settlement/scheme_batch_settlement_evm.md`,
"Facilitator Interface" and "Verification Rules". Codes are without their prefix.
"""

from collections.abc import Callable, Mapping

from agentpay.errors import MalformedMessage
from agentpay.evm.batch_settlement_abi import ChannelOnChain
from agentpay.facilitator.deposits import DepositMovement
from agentpay.facilitator.embedded import Facilitator
from agentpay.facilitator.once import Refused, SettledOnce
from agentpay.onchain import is_voucher_signed, read_channel, wrong_signature
from agentpay.ports import Chain
from agentpay.records import Settled
from agentpay.types import Asset
from agentpay.wire.x402 import (
    DepositPayload,
    Extension,
    RefundPayload,
    Requirements,
    VoucherPayload,
)
from agentpay.wire.x402_approvals import read_approvals
from agentpay.wire.x402_deposits import (
    deposit_signature_code,
    read_config,
    read_deposit,
    wrong_deposit,
)
from agentpay.wire.x402_facilitator import UNSUPPORTED, wrong_amount, wrong_channel
from agentpay.wire.x402_sponsoring import EIP2612_KEY

_SignedPayload = VoucherPayload | DepositPayload | RefundPayload


class ChannelDesk:
    """Takes what payers signed for channels, for one facilitator."""

    def __init__(
        self,
        *,
        chain: Chain,
        facilitator: Facilitator,
        once: SettledOnce,
        clock: Callable[[], float],
    ) -> None:
        self._chain = chain
        self._facilitator = facilitator
        self._once = once
        self._clock = clock

    async def verify(
        self,
        payload: _SignedPayload,
        wanted: Requirements,
        asset: Asset,
        extensions: Mapping[str, Extension],
    ) -> ChannelOnChain | Refused:
        """What the chain says of a channel whose voucher is good, or why it is not."""
        state = await self._check_voucher(payload, wanted)
        if isinstance(state, Refused) or not isinstance(payload, DepositPayload):
            return state
        movement = await self._deposit(payload, asset, extensions)
        refused = movement if isinstance(movement, Refused) else await movement.check()
        return state if refused is None else refused

    async def _check_voucher(
        self, payload: _SignedPayload, wanted: Requirements
    ) -> ChannelOnChain | Refused:
        config, voucher = read_config(payload.channel_config), payload.voucher
        code = wrong_channel(config, voucher.channel_id, wanted)
        if code is not None:
            return Refused(code=code)
        amount = voucher.max_claimable_amount
        if not await is_voucher_signed(self._chain, config, amount, voucher.signature):
            return Refused(code="voucher_signature")
        state = await read_channel(self._chain, voucher.channel_id)
        added = payload.deposit.amount if isinstance(payload, DepositPayload) else 0
        code = wrong_amount(state, amount, added=added)
        if code is not None:
            return Refused(code=code)
        # Only a voucher has to add something; a refund's and a deposit's may not.
        least = state.claimed + isinstance(payload, VoucherPayload)
        return Refused(code="cumulative_below_claimed") if amount < least else state

    async def deposit(
        self,
        payload: DepositPayload,
        wanted: Requirements,
        asset: Asset,
        extensions: Mapping[str, Extension],
    ) -> Settled | Refused:
        """Put a deposit on the chain, once."""
        state = await self._check_voucher(payload, wanted)
        if isinstance(state, Refused):
            return state
        movement = await self._deposit(payload, asset, extensions)
        if isinstance(movement, Refused):
            return movement
        return await self._once.settle(movement)

    async def _deposit(
        self,
        payload: DepositPayload,
        asset: Asset,
        extensions: Mapping[str, Extension],
    ) -> DepositMovement | Refused:
        config = read_config(payload.channel_config)
        code = wrong_deposit(payload, config, payload.voucher.channel_id)
        if code is not None:
            return Refused(code=code)
        approvals = None
        if payload.deposit.authorization.permit2_authorization is not None:
            try:
                approvals = read_approvals(
                    extensions,
                    asset,
                    payer=config.payer,
                    amount=payload.deposit.amount,
                    sponsors=self._facilitator.sponsors,
                )
            except MalformedMessage as error:
                by_permit = EIP2612_KEY in str(error)
                kind = "eip2612" if by_permit else "erc20_approval"
                return Refused(code=f"{kind}_invalid_format", message=str(error))
        deposit = read_deposit(payload, config, asset, approvals=approvals)
        lack = await self._facilitator.contracts.lack(deposit)
        if lack is not None:
            return Refused(code=UNSUPPORTED, message=lack)
        code = await wrong_signature(
            self._chain,
            config.payer,
            deposit.digest(),
            deposit.signature,
            factories=self._facilitator.wallet_factories,
            code=deposit_signature_code(deposit),
        )
        if code is not None:
            return Refused(code=code)
        return DepositMovement(
            chain=self._chain,
            facilitator=self._facilitator,
            clock=self._clock,
            deposit=deposit,
        )
