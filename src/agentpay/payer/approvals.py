"""
A payer's approvals of Permit2: for exactly what is paid, signed along with the payment.

An allowance that is there is used; where it does not reach, a payee that sends
approvals along is given one for this payment's amount: a permit
(`eip2612GasSponsoring`), or for a token without permits a signed transaction
(`erc20ApprovalGasSponsoring`). Both set the allowance and are numbered: one goes at a
time per token, while nothing else that Permit2 moves is under way.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from agentpay.core.payer_channel import PendingDeposit
from agentpay.errors import ApprovalBusy, ApprovalNeeded, TransactionFailed
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import allowance_call, permit_nonce_call
from agentpay.evm.approval import (
    APPROVAL_GAS,
    ApprovalTransaction,
    SignedApproval,
)
from agentpay.evm.eip2612 import Permit, SignedPermit, permit_digest
from agentpay.onchain import read_words
from agentpay.payer.offer import Offer
from agentpay.payer.policy import Policy
from agentpay.ports import Chain, Signer
from agentpay.signers.smart_wallet import SmartWallet
from agentpay.types import Asset, ChainId
from agentpay.wire.x402 import PERMIT2 as BY_PERMIT2
from agentpay.wire.x402_approvals import APPROVAL_KEY, SignedApprovals
from agentpay.wire.x402_sponsoring import EIP2612_KEY


@dataclass(slots=True, kw_only=True)
class Approval:
    """The right to have one payment moved by Permit2; ended once that is over."""

    along: SignedApprovals = field(default_factory=SignedApprovals)
    """Goes along with the payment; nothing if the allowance is there."""
    _endings: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def at_end(self, ending: Callable[[], None]) -> None:
        self._endings.append(ending)

    def end(self) -> None:
        """The payment's outcome is known, or nobody waits for it; safe to repeat."""
        endings, self._endings = self._endings, []
        for ending in endings:
            ending()


class _Moves:
    """What Permit2 may move of one token for payments that are under way."""

    def __init__(self) -> None:
        self.amount = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.permitting = asyncio.Lock()

    def begin(self, amount: int) -> None:
        self.amount += amount
        self.idle.clear()

    def end(self, amount: int) -> None:
        self.amount -= amount
        if not self.amount:
            self.idle.set()


class Approvals:
    """Approves Permit2 for one payer's payments."""

    def __init__(
        self, *, signer: Signer, chains: Mapping[ChainId, Chain], policy: Policy
    ) -> None:
        self._signer = signer
        self._chains = chains
        self._policy = policy
        self._moves: defaultdict[Asset, _Moves] = defaultdict(_Moves)

    async def get(self, offer: Offer, amount: int, *, valid_before: int) -> Approval:
        """
        The right to have `amount` moved.

        Raises:
            ApprovalNeeded: There is no allowance for it, and nobody sends one along.
            ApprovalBusy: Another payment's permit is under way for too long.
            ChainError: The allowance could not be read.
        """
        moves = self._moves[offer.asset]
        approval = Approval()
        try:
            async with asyncio.timeout(self._policy.give_up_seconds):
                await moves.permitting.acquire()
                approval.at_end(moves.permitting.release)
                allowance = await self._allowance(offer)
                if allowance < amount + moves.amount:
                    self._require_help(offer, allowance, amount + moves.amount)
                    await moves.idle.wait()
                    approval.along = await self._sign(offer, amount, valid_before)
        except TimeoutError as error:
            approval.end()
            raise ApprovalBusy(
                f"a permit for token {offer.asset.address} was under way for more than"
                f" {self._policy.give_up_seconds} s"
            ) from error
        except BaseException:
            approval.end()
            raise
        if approval.along == SignedApprovals():
            approval.end()
        moves.begin(amount)
        approval.at_end(lambda: moves.end(amount))
        return approval

    @contextlib.asynccontextmanager
    async def along(
        self, offer: Offer, deposit: PendingDeposit | None
    ) -> AsyncGenerator[Approval]:
        """
        What a deposit needs, ended if it is not signed; nothing, unless by Permit2.

        Raises: as `get`.
        """
        approval = Approval()
        if deposit is not None and offer.method == BY_PERMIT2:
            approval = await self.get(
                offer, deposit.amount, valid_before=deposit.valid_before
            )
        try:
            yield approval
        except BaseException:
            approval.end()
            raise

    async def _allowance(self, offer: Offer) -> int:
        token, owner = offer.asset.address, self._signer.address
        call = allowance_call(token, owner=owner, spender=PERMIT2)
        (allowance,) = await read_words(self._chains[offer.asset.chain], [call])
        return allowance

    def _require_help(self, offer: Offer, allowance: int, amount: int) -> None:
        """The payee has to send something along, which a contract cannot sign."""
        sends = APPROVAL_KEY in offer.extensions or _sends_permits(offer)
        if not sends or isinstance(self._signer, SmartWallet):
            token = offer.asset.address
            raise ApprovalNeeded(token, allowance=allowance, amount=amount)

    async def _sign(
        self, offer: Offer, amount: int, valid_before: int
    ) -> SignedApprovals:
        """A permit, or a transaction for a token without."""
        if _sends_permits(offer):
            try:
                permit = await self._permit(offer, amount, valid_before)
            except TransactionFailed:
                pass  # the token has no permits
            else:
                return SignedApprovals(permit=permit)
        # Some tokens change an allowance only from zero, and there is one step here.
        allowance = await self._allowance(offer)
        if APPROVAL_KEY not in offer.extensions or allowance:
            token = offer.asset.address
            raise ApprovalNeeded(token, allowance=allowance, amount=amount)
        return SignedApprovals(transaction=await self._transaction(offer, amount))

    async def _transaction(self, offer: Offer, amount: int) -> SignedApproval:
        asset = offer.asset
        standing = await self._chains[asset.chain].standing(self._signer.address)
        unsigned = ApprovalTransaction(
            chain=asset.chain,
            nonce=standing.nonce,
            tip=standing.tip,
            fee_max=2 * standing.base_fee + standing.tip,
            gas=APPROVAL_GAS,
            token=asset.address,
            amount=amount,
        )
        digest = unsigned.digest()
        return unsigned.signed(
            await self._signer.sign_digest(digest, chain=asset.chain)
        )

    async def _permit(
        self, offer: Offer, amount: int, valid_before: int
    ) -> SignedPermit:
        asset, owner = offer.asset, self._signer.address
        call = permit_nonce_call(asset.address, owner)
        (nonce,) = await read_words(self._chains[asset.chain], [call])
        permit = Permit(
            owner=owner,
            spender=PERMIT2,
            value=amount,
            nonce=nonce,
            deadline=valid_before,
        )
        digest = permit_digest(permit, asset)
        signature = await self._signer.sign_digest(digest, chain=asset.chain)
        return SignedPermit(permit=permit, signature=signature)


def _sends_permits(offer: Offer) -> bool:
    return EIP2612_KEY in offer.extensions and bool(offer.asset.name)
