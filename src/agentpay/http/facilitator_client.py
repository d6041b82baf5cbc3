"""
Facilitators behind HTTP, for a payee that does not pay gas itself.

What they say of money is checked on the chain, through the payee's own endpoint: the
transaction must be there, and its events must show what was signed for. So a
facilitator that lies can refuse, or be slow, and nothing else.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx

from agentpay.core.payee_channel import HeldVoucher
from agentpay.errors import (
    FacilitatorUnavailable,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm.batch_settlement import (
    ChannelConfig,
    VoucherClaim,
    channel_id,
    claim_batch_digest,
    refund_digest,
)
from agentpay.evm.batch_settlement_abi import SignedRefund
from agentpay.evm.calls import Receipt
from agentpay.evm.deposit import Deposit
from agentpay.evm.hashing import address_word
from agentpay.evm.transfer import Transfer
from agentpay.facilitator.embedded import (
    claimed_in,
    deposit_result,
    transfer_result,
)
from agentpay.http.facilitator_endpoints import Endpoints
from agentpay.onchain import (
    find_deposit,
    find_transfer,
    is_used,
    moved_by,
    read_claimed,
    read_funds,
)
from agentpay.ports import Chain, Signer
from agentpay.records import Settled
from agentpay.types import Address, Asset, Hash32, network_of
from agentpay.wire import x402_asks as asks
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import BATCH_SETTLEMENT, EXACT, UPTO
from agentpay.wire.x402_asks import SettleAnswer
from agentpay.wire.x402_facilitator import PENDING

_log = logging.getLogger(__name__)

CLAIMS_MAX = 100
"""So that no facilitator finds a claim too large to read."""
_POLL_SECONDS = 0.1
_AGAIN_SECONDS = 1.0
_USED = "it was used or cancelled, and did not pay for this"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """Something signed that moves money once, and how the chain shows that it did."""

    key: str
    what: str
    valid_before: int
    used: Callable[[], Awaitable[bool]]
    find: Callable[[], Awaitable[Settled | None]]
    result: Callable[[Receipt], Awaitable[Settled]]


class RemoteFacilitator:
    """Facilitators by URL, the first that can be reached before the next."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        tokens: Mapping[str, str] | None = None,
        timeout_seconds: float = 60,
        seen_within_seconds: float = 5,
        check_on_chain: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """
        `tokens` are the bearer tokens of some of the URLs; `seen_within_seconds` is
        how long our node may take to see what a facilitator says is mined. Without
        `check_on_chain`, it is believed whatever it says of what payers signed.

        Raises:
            ConfigurationError: A URL cannot be used.
        """
        self._endpoints = Endpoints(
            urls,
            tokens=tokens or {},
            timeout_seconds=timeout_seconds,
            transport=transport,
        )
        self._check = check_on_chain
        self._seen_within_seconds = seen_within_seconds
        self._chain: Chain | None = None
        self._asset: Asset | None = None
        self._tried_at = -_AGAIN_SECONDS
        self._ready = False

    @property
    def address(self) -> Address | None:
        """See `Settler.address`; None unless one of them does `upto`."""
        if self._chain is None:
            return None
        return self._endpoints.bound(network_of(self._chain.chain_id))

    @property
    def claims_max(self) -> int:
        return CLAIMS_MAX

    async def start(self, chain: Chain, asset: Asset) -> None:
        """See `Settler.start`; asks again a second after it failed, not before."""
        if self._ready:
            return
        self._chain, self._asset = chain, asset
        now = time.monotonic()
        if now - self._tried_at < _AGAIN_SECONDS:
            raise FacilitatorUnavailable("no facilitator answers yet: try again")
        self._tried_at = now
        network = network_of(chain.chain_id)
        await self._endpoints.look(network, (EXACT, BATCH_SETTLEMENT, UPTO))
        self._ready = True

    async def stop(self) -> None:
        """See `Settler.stop`."""
        self._ready = False
        await self._endpoints.aclose()

    @property
    def _reads(self) -> Chain:
        if self._chain is None:
            raise FacilitatorUnavailable("it is not started: await its start()")
        return self._chain

    @property
    def _token(self) -> Asset:
        if self._asset is None:
            raise FacilitatorUnavailable("it is not started: await its start()")
        return self._asset

    # What payers signed.

    async def verify(self, transfer: Transfer) -> None:
        """See `Settler.verify`; a facilitator's yes needs the chain's as well."""
        what = f"transfer from {transfer.payer}"
        answer = await self._endpoints.question(
            asks.transfer_request(transfer, transfer.maximum), by=self._by(transfer)
        )
        if not answer.is_valid:
            raise TransactionFailed(what, reason=answer.invalid_reason or "invalid")
        if not self._check:
            return
        if await is_used(self._reads, transfer):
            raise TransactionFailed(what, reason=_USED)
        if await read_funds(self._reads, transfer) < transfer.maximum:
            raise TransactionFailed(what, reason="insufficient_funds")

    async def settle_transfer(self, transfer: Transfer, amount: int) -> Settled:
        """See `Settler.settle_transfer`."""

        async def find() -> Settled | None:
            receipt = await find_transfer(self._reads, transfer)
            return None if receipt is None else transfer_result(transfer, receipt)

        async def result(receipt: Receipt) -> Settled:
            if not await moved_by(self._reads, transfer, receipt):
                raise TransactionFailed(
                    order.what, reason="it is another's transaction"
                )
            return transfer_result(transfer, receipt)

        order = _Order(
            key=transfer.id,
            what=f"transfer {amount} from {transfer.payer}",
            valid_before=transfer.valid_before,
            used=lambda: is_used(self._reads, transfer),
            find=find,
            result=result,
        )
        request = asks.transfer_request(transfer, amount)
        return await self._carry_out(order, request, amount, by=self._by(transfer))

    async def verify_deposit(self, deposit: Deposit, voucher: HeldVoucher) -> None:
        """See `Settler.verify_deposit`."""
        request = asks.deposit_request(deposit, voucher)
        answer = await self._endpoints.question(request, by=None)
        if not answer.is_valid:
            what = f"deposit by {deposit.config.payer}"
            raise TransactionFailed(what, reason=answer.invalid_reason or "invalid")

    async def deposit(self, deposit: Deposit, voucher: HeldVoucher) -> Settled:
        """See `Settler.deposit`."""

        async def find() -> Settled | None:
            transaction = await find_deposit(self._reads, deposit)
            if transaction is None:
                return None
            return Settled(transaction=transaction, amount=deposit.amount)

        async def result(receipt: Receipt) -> Settled:
            return deposit_result(deposit, receipt)

        order = _Order(
            key=f"deposit:{deposit.digest().hex()}",
            what=f"deposit {deposit.amount} by {deposit.config.payer}",
            valid_before=deposit.valid_before,
            used=lambda: is_used(self._reads, deposit),
            find=find,
            result=result,
        )
        request = asks.deposit_request(deposit, voucher)
        return await self._carry_out(order, request, deposit.amount, by=None)

    def _by(self, transfer: Transfer) -> tuple[Address, str] | None:
        if transfer.facilitator is None:
            return None
        return transfer.facilitator, network_of(transfer.asset.chain)

    async def _carry_out(
        self,
        order: _Order,
        request: JsonObject,
        amount: int,
        *,
        by: tuple[Address, str] | None,
    ) -> Settled:
        # Given before, it may have been carried out since.
        if self._endpoints.was_given(order.key) and await order.used():
            return await self._resolve(order, "")
        try:
            answer = await self._endpoints.order(
                order.key, request, what=order.what, by=by
            )
        except TransactionOutcomeUnknown:
            return await self._resolve(order, "")
        if answer.success:
            return await self._proven(order, answer, amount)
        if answer.error_reason == PENDING:
            return await self._resolve(order, answer.transaction)
        found = await self._found(order)
        self._endpoints.forget(order.key)
        if found is None:
            raise TransactionFailed(order.what, reason=answer.reason or "refused")
        return found

    async def _proven(
        self, order: _Order, answer: SettleAnswer, amount: int
    ) -> Settled:
        """What a facilitator says is done, if the chain shows it."""
        if not self._check:
            self._endpoints.forget(order.key)
            return Settled(transaction=answer.transaction, amount=amount)
        try:
            receipt = await self._receipt(order.what, answer.transaction)
            settled = await order.result(receipt)
            if await order.used():
                self._endpoints.forget(order.key)
                return settled
        except TransactionFailed as error:
            _log.warning("%s: its facilitator says done: %s", order.what, error)
        return await self._resolve(order, answer.transaction)

    async def _resolve(self, order: _Order, transaction: str) -> Settled:
        """Nobody can be believed but the chain: done, too late for ever, or unknown."""
        head = await self._reads.head()
        found = await self._found(order)
        if found is not None:
            self._endpoints.forget(order.key)
            return found
        if head.timestamp > order.valid_before:
            self._endpoints.forget(order.key)
            reason = "it expired, and did not pay for this"
            raise TransactionFailed(order.what, reason=reason)
        raise TransactionOutcomeUnknown(order.what, transaction=transaction)

    async def _found(self, order: _Order) -> Settled | None:
        """
        What it did, if our node shows that.

        One that is used and shows nothing was cancelled, or our node is late.
        """
        return await order.find() if await order.used() else None

    # What the payee orders.

    async def claim(
        self, claims: Sequence[VoucherClaim], *, authorizer: Signer, deadline: int = 0
    ) -> Settled:
        """See `Settler.claim`; HTTP has no word for a deadline."""
        chain = self._reads.chain_id
        digest = claim_batch_digest(claims, chain)
        signature = await authorizer.sign_digest(digest, chain=chain)
        request = asks.claim_request(claims, signature, self._token)
        what = f"claim {len(claims)} channel(s)"
        try:
            receipt = await self._ordered(digest.hex(), request, what)
            return _moved(receipt, claimed_in(claims, receipt, self._reads), what)
        except TransactionFailed:
            ids = [channel_id(claim.config, chain) for claim in claims]
            done = zip(claims, await read_claimed(self._reads, ids), strict=True)
            if all(claimed >= row.total_claimed for row, claimed in done):
                return Settled(transaction="", amount=0)
            raise

    async def settle(self, receiver: Address, asset: Asset) -> Settled:
        """See `Settler.settle`."""
        what = f"settle {receiver}"
        request = asks.settle_request(receiver, asset)
        receipt = await self._ordered(f"{receiver}{asset.address}", request, what)
        to = Hash32.of(address_word(receiver))
        amount = channels.amount_in(receipt.logs, channels.SETTLED, to)
        return _moved(receipt, amount, what)

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
        chain = self._reads.chain_id
        channel = channel_id(config, chain)
        digest = refund_digest(channel, nonce=nonce, amount=amount, chain=chain)
        claiming = b""
        if claims:
            claiming = await authorizer.sign_digest(
                claim_batch_digest(claims, chain), chain=chain
            )
        refund = SignedRefund(
            config=config,
            amount=amount,
            nonce=nonce,
            signature=await authorizer.sign_digest(digest, chain=chain),
            claims=tuple(claims),
            claims_signature=claiming,
        )
        what = f"refund to {config.payer}"
        request = asks.refund_request(refund, self._token)
        receipt = await self._ordered(digest.hex(), request, what)
        refunded = channels.amount_in(receipt.logs, channels.REFUNDED, channel)
        return _moved(receipt, refunded, what)

    async def _ordered(self, key: str, request: JsonObject, what: str) -> Receipt:
        """
        Have something sent; what it did is read from our own chain, always.

        Repeating one of these is safe: the contract does each only once.
        """
        answer = await self._endpoints.order(key, request, what=what)
        if answer.success:
            receipt = await self._receipt(what, answer.transaction)
            self._endpoints.forget(key)
            return receipt
        if answer.error_reason == PENDING:
            raise TransactionOutcomeUnknown(what, transaction=answer.transaction)
        self._endpoints.forget(key)
        raise TransactionFailed(what, reason=answer.reason or "refused")

    async def _receipt(self, what: str, transaction: str) -> Receipt:
        """
        Raises:
            TransactionFailed: It is no transaction, or one that reverted.
            TransactionOutcomeUnknown: Our node does not know it yet.
        """
        try:
            named = Hash32(transaction)
        except ValueError as error:
            raise TransactionFailed(what, reason="it names no transaction") from error
        deadline = asyncio.get_running_loop().time() + self._seen_within_seconds
        while True:
            receipt = await self._reads.receipt(named)
            if receipt is not None:
                return receipt
            if asyncio.get_running_loop().time() > deadline:
                raise TransactionOutcomeUnknown(what, transaction=named)
            await asyncio.sleep(_POLL_SECONDS)


def _moved(receipt: Receipt, amount: int | None, what: str) -> Settled:
    if not amount:
        reason = "it left no event of it"
        raise TransactionFailed(what, reason=reason, transaction=receipt.transaction)
    return Settled(transaction=receipt.transaction, amount=amount)
