"""
Moves money on chain: simulates, sends with a cap on gas, and reads the result.

A payee's own, in its process and with its own gas-paying keys, and the inside of the
facilitator service. What a transaction did is read from its events, never from its
status alone (a token may return false and still succeed).
"""

import logging
from collections.abc import Collection, Sequence
from functools import partial

from agentpay.core.payee_channel import HeldVoucher
from agentpay.errors import TransactionFailed
from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm.batch_settlement import (
    REFUND_ALL,
    ChannelConfig,
    VoucherClaim,
    channel_id,
    claim_batch_digest,
    refund_digest,
)
from agentpay.evm.batch_settlement_abi import SignedRefund
from agentpay.evm.calls import Call, Receipt
from agentpay.evm.charge_permit import ChargePermit
from agentpay.evm.deposit import Deposit
from agentpay.evm.hashing import address_word
from agentpay.evm.multicall3_abi import call_after
from agentpay.evm.transfer import Transfer
from agentpay.facilitator.contracts import Contracts
from agentpay.facilitator.deposit_gas import DepositGas
from agentpay.facilitator.gas import (
    TRANSACTION_GAS_MAX,
    ClaimSize,
    GasLimits,
    GasSpending,
    Spent,
)
from agentpay.facilitator.new_wallets import NewWallets
from agentpay.facilitator.outcomes import claimed_in, deposit_result, transfer_result
from agentpay.facilitator.senders import SenderPool
from agentpay.facilitator.sponsor import SPONSORED, Sponsor, before_the_payment
from agentpay.onchain import find_transfer
from agentpay.ports import Chain, Signer
from agentpay.records import Settled
from agentpay.sending_ports import Sender
from agentpay.types import Address, Asset, Hash32
from agentpay.wire.bazaar import Listing

_log = logging.getLogger(__name__)

CLAIMS_MAX = 600
"""Of the cheapest; `ClaimSize` says how many fit, and what does not is halved."""


class Facilitator:
    """Sends what others signed. Its keys pay the gas of all of it: see `Settler`."""

    def __init__(
        self,
        *,
        chain: Chain,
        senders: Sequence[Sender],
        gas: GasLimits | None = None,
        spending: GasSpending | None = None,
        wallet_factories: Collection[Address] = (),
        sponsor: Sponsor | None = None,
        deposits: DepositGas | None = None,
    ) -> None:
        """
        `wallet_factories` are called to make the wallets of payers (ERC-6492), and
        `sponsor` has their approvals of Permit2 mined. `deposits` bounds what theirs
        cost.

        Raises:
            ConfigurationError: There are no senders, or one twice.
        """
        self._chain = chain
        self._contracts = Contracts(chain)
        self._senders = SenderPool(senders)
        self._gas = gas or GasLimits()
        self._size = ClaimSize(self._gas, most=CLAIMS_MAX)
        self._spending = spending
        self._wallets = NewWallets(chain, wallet_factories)
        self._sponsor = sponsor
        self._deposits = deposits or DepositGas(chain)

    @property
    def sponsors(self) -> bool:
        """Whether it pays for payers' approvals of Permit2."""
        return self._sponsor is not None

    @property
    def wallet_factories(self) -> frozenset[Address]:
        """Who makes wallets that it lets pay before they are deployed."""
        return self._wallets.factories

    @property
    def contracts(self) -> Contracts:
        """What its chain has of the contracts that payments need."""
        return self._contracts

    @property
    def address(self) -> Address:
        """The first of its keys."""
        return self._senders.addresses[0]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All accounts that pay gas."""
        return self._senders.addresses

    @property
    def claims_max(self) -> int:
        """See `Settler.claims_max`: what fits one transaction, by estimate."""
        return self._size.rows

    @property
    def gas(self) -> GasLimits:
        """What each call may use."""
        return self._gas

    async def start(self, chain: Chain, asset: Asset) -> None:
        """It is here; what a block has room for bounds a claim."""
        del asset
        if not self._size.knows_block:
            self._size.see_block((await chain.head()).gas_limit)

    async def stop(self) -> None:
        """Nothing to let go of: chain and senders are whose made them."""

    async def verify(
        self, transfer: Transfer, *, listing: Listing | None = None
    ) -> None:
        """See `Settler.verify`; it keeps no catalogue."""
        del listing
        await self._contracts.check(transfer)
        if await self._waits_for_approval(transfer):
            return
        deploy = await self._wallets.deploy_call(transfer.payer, transfer.signature)
        if deploy is not None and transfer.facilitator is not None:
            await self._wallets.check_funds(deploy, transfer)
            await self._senders.simulate(deploy, gas_max=self._gas.wallet)
            return
        call = transfer.call(transfer.maximum)
        await self._senders.simulate(
            call_after(deploy, call) if deploy else call,
            gas_max=self._transfer_gas(transfer) + (self._gas.wallet if deploy else 0),
            by=transfer.facilitator,
        )

    async def settle_transfer(
        self, transfer: Transfer, amount: int, *, listing: Listing | None = None
    ) -> Settled:
        """See `Settler.settle_transfer`."""
        del listing
        try:
            receipt = await self._transfer(transfer, amount)
        except TransactionFailed:
            earlier = await find_transfer(self._chain, transfer)
            if earlier is None:
                raise
            receipt = earlier
        return transfer_result(transfer, receipt)

    async def _transfer(self, transfer: Transfer, amount: int) -> Receipt:
        """Send it, and first what it needs: an approval, or its payer's wallet."""
        payee, bound = transfer.to, transfer.facilitator
        await self._contracts.check(transfer)
        await self._approve(transfer, payee)
        call, gas = transfer.call(amount), self._transfer_gas(transfer)
        deploy = await self._wallets.deploy_call(transfer.payer, transfer.signature)
        if deploy is not None and bound is None:
            call, gas = call_after(deploy, call), gas + self._gas.wallet
        elif deploy is not None:  # Multicall3 may not send what is bound to our key
            with before_the_payment(deploy.what):
                await self.send(deploy, gas_max=self._gas.wallet, payee=payee)
        return await self.send(call, gas_max=gas, payee=payee, by=bound)

    def _transfer_gas(self, transfer: Transfer) -> int:
        parts = len(transfer.parts) if isinstance(transfer, ChargePermit) else 1
        return self._gas.transfers(parts)

    async def verify_deposit(
        self,
        deposit: Deposit,
        voucher: HeldVoucher | None = None,
        *,
        listing: Listing | None = None,
    ) -> None:
        """See `Settler.verify_deposit`; its voucher is whose it is to check."""
        del voucher, listing
        await self._contracts.check(deposit)
        if await self._waits_for_approval(deposit):
            return
        call, gas = await self._deposit(deposit)
        await self._senders.simulate(call, gas_max=gas)
        await self._deposits.check(self.address, gas)

    async def deposit(
        self,
        deposit: Deposit,
        voucher: HeldVoucher | None = None,
        *,
        listing: Listing | None = None,
    ) -> Settled:
        """See `Settler.deposit`."""
        del voucher, listing
        await self._contracts.check(deposit)
        await self._approve(deposit, deposit.config.receiver)
        call, gas = await self._deposit(deposit)
        send = partial(self.send, call, gas_max=gas, payee=deposit.config.receiver)
        receipt = await self._deposits.send(self.address, gas, send)
        return deposit_result(deposit, receipt)

    async def _deposit(self, deposit: Deposit) -> tuple[Call, int]:
        """What puts it on the chain, with its payer's wallet, and its gas."""
        call, gas = deposit.call(), self._gas.deposit
        payer = deposit.config.payer
        deploy = await self._wallets.deploy_call(payer, deposit.signature)
        if deploy is None:
            return call, gas
        return call_after(deploy, call), gas + self._gas.wallet

    async def _waits_for_approval(self, signed: Transfer | Deposit) -> bool:
        """Whether an approval comes first, which would go through; or it raises."""
        if self._sponsor is None or not isinstance(signed, SPONSORED):
            return False
        if not await self._sponsor.is_needed(signed):
            return False
        await self._sponsor.check(signed)
        return True

    async def _approve(self, signed: Transfer | Deposit, payee: Address) -> None:
        if self._sponsor is not None and isinstance(signed, SPONSORED):
            gas = self._gas.funding
            await self._sponsor.grant(
                signed, lambda call: self.send(call, gas_max=gas, payee=payee)
            )

    async def claim(
        self, claims: Sequence[VoucherClaim], *, authorizer: Signer, deadline: int = 0
    ) -> Settled:
        """See `Settler.claim`."""
        signature = await self._sign(claims, authorizer)
        return await self.send_claims(claims, signature, deadline=deadline)

    async def simulate_claims(
        self, claims: Sequence[VoucherClaim], signature: bytes
    ) -> None:
        """Whether a claim would go through now."""
        call = channels.claim_call(claims, signature)
        await self._senders.simulate(call, gas_max=self._gas.claims(len(claims)))

    async def send_claims(
        self, claims: Sequence[VoucherClaim], signature: bytes, *, deadline: int = 0
    ) -> Settled:
        """See `Settler.claim`, with the authorizer's signature made before."""
        receipt = await self.send(
            channels.claim_call(claims, signature),
            gas_max=self._gas.claims(len(claims)),
            payee=claims[0].config.receiver,
            deadline=deadline,
        )
        self._size.see_claim(len(claims), receipt.gas_used)
        amount = claimed_in(claims, receipt, self._chain)
        _log.info("claimed %d of %d channel(s)", amount, len(claims))
        return Settled(transaction=receipt.transaction, amount=amount)

    async def settle(self, receiver: Address, asset: Asset) -> Settled:
        """See `Settler.settle`."""
        token = asset.address
        receipt = await self.send(
            channels.settle_call(receiver, token),
            gas_max=self._gas.settle,
            payee=receiver,
        )
        to = Hash32.of(address_word(receiver))
        amount = channels.amount_in(receipt.logs, channels.SETTLED, to) or 0
        _log.info("settled %d of %s to %s", amount, token, receiver)
        return Settled(transaction=receipt.transaction, amount=amount)

    async def refund(
        self,
        config: ChannelConfig,
        *,
        amount: int,
        nonce: int,
        claims: Sequence[VoucherClaim],
        authorizer: Signer,
    ) -> Settled:
        """See `Settler.refund`."""
        chain = self._chain.chain_id
        signature = await self._sign(claims, authorizer) if claims else b""
        digest = refund_digest(
            channel_id(config, chain), nonce=nonce, amount=amount, chain=chain
        )
        return await self.send_refund(
            SignedRefund(
                config=config,
                amount=amount,
                nonce=nonce,
                signature=await authorizer.sign_digest(digest, chain=chain),
                claims=tuple(claims),
                claims_signature=signature,
            )
        )

    async def simulate_refund(self, refund: SignedRefund) -> None:
        """Whether a refund would go through now."""
        await self._senders.simulate(refund.call(), gas_max=self._refund_gas(refund))

    async def send_refund(self, refund: SignedRefund) -> Settled:
        """See `Settler.refund`, with the authorizer's signatures made before."""
        config, gas = refund.config, self._refund_gas(refund)
        send = partial(self.send, refund.call(), gas_max=gas, payee=config.receiver)
        if refund.amount == REFUND_ALL:
            receipt = await send()
        else:  # a payer may ask for many parts of one deposit
            receipt = await self._deposits.send(self.address, gas, send)
        channel = channel_id(config, self._chain.chain_id)
        refunded = channels.amount_in(receipt.logs, channels.REFUNDED, channel) or 0
        _log.info("refunded %d of channel %s to %s", refunded, channel, config.payer)
        return Settled(transaction=receipt.transaction, amount=refunded)

    def _refund_gas(self, refund: SignedRefund) -> int:
        return self._gas.refund + self._gas.claims(len(refund.claims))

    async def send(
        self,
        call: Call,
        *,
        gas_max: int,
        payee: Address,
        by: Address | None = None,
        deadline: int = 0,
    ) -> Receipt:
        """
        Send a call on a payee's account, within the gas of the hour.

        Raises:
            GasLimitReached: The hour's gas is used up; nothing was sent.
            ChainError, StoreUnavailable: See `Sender.send`.
        """
        spent = self.reserve(payee, min(gas_max, TRANSACTION_GAS_MAX))
        sending = self._senders.send(call, gas_max=gas_max, by=by, deadline=deadline)
        if self._spending is None or spent is None:
            return await sending
        return await self._spending.pay(spent, sending, cost=lambda r: r.gas_used)

    async def send_reserved(self, call: Call) -> Receipt:
        """Send a batch, for whose parts gas is reserved already."""
        return await self._senders.send(call, gas_max=self._gas.batch)

    def reserve(self, payee: Address, gas: int) -> Spent | None:
        """
        Count gas on a payee's account; None where none is counted.

        Raises:
            GasLimitReached: The hour's gas is used up.
        """
        return self._spending.reserve(payee, gas) if self._spending else None

    def correct(self, spent: Spent | None, gas: int) -> None:
        """It used so much of what was reserved."""
        if self._spending is not None and spent is not None:
            self._spending.correct(spent, gas)

    async def _sign(self, claims: Sequence[VoucherClaim], authorizer: Signer) -> bytes:
        chain = self._chain.chain_id
        return await authorizer.sign_digest(
            claim_batch_digest(claims, chain), chain=chain
        )
