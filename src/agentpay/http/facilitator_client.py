"""
Facilitators behind HTTP, for a payee that does not pay gas itself.

What they say of money is checked on the chain, through the payee's own endpoint: the
transaction must be there, and its events must show what was signed for; that of an
order must be later than the order, and the chain show what it was to do. So a
facilitator that lies can refuse, or be slow, and nothing else.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

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
from agentpay.facilitator.outcomes import (
    claimed_in,
    deposit_result,
    transfer_result,
)
from agentpay.http.facilitator_endpoints import Endpoints
from agentpay.http.facilitator_orders import Order, Orders, Repeatable
from agentpay.onchain import (
    find_deposit,
    find_transfer,
    is_used,
    moved_by,
    read_channel,
    read_claimed,
    read_funds,
)
from agentpay.ports import Chain, Signer
from agentpay.records import Settled
from agentpay.types import Address, Asset, Hash32, network_of
from agentpay.wire import x402_asks as asks
from agentpay.wire.bazaar import Listing
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import BATCH_SETTLEMENT, EXACT, UPTO

_log = logging.getLogger(__name__)

CLAIMS_MAX = 100
"""So that no facilitator finds a claim too large to read."""
_AGAIN_SECONDS = 1.0
_USED = "it was used or cancelled, and did not pay for this"


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
        `tokens` are the bearer tokens of some of the URLs; `timeout_seconds` is how
        long a whole answer may take, and `seen_within_seconds` how long our node may
        take to see what a facilitator says is mined. Without
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
        self._orders = Orders(
            self._endpoints,
            check=check_on_chain,
            seen_within_seconds=seen_within_seconds,
        )
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
            self._endpoints.look_again()
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

    async def verify(
        self, transfer: Transfer, *, listing: Listing | None = None
    ) -> None:
        """See `Settler.verify`; a facilitator's yes needs the chain's as well."""
        what = f"transfer from {transfer.payer}"
        request = asks.transfer_request(transfer, transfer.maximum, listing)
        answer = await self._endpoints.question(request, by=self._by(transfer))
        if not answer.is_valid:
            raise TransactionFailed(what, reason=answer.invalid_reason or "invalid")
        if not self._check:
            return
        if await is_used(self._reads, transfer):
            await self._look_at(transfer)
            raise TransactionFailed(what, reason=_USED)
        if await read_funds(self._reads, transfer) < transfer.maximum:
            raise TransactionFailed(what, reason="insufficient_funds")

    async def settle_transfer(
        self, transfer: Transfer, amount: int, *, listing: Listing | None = None
    ) -> Settled:
        """
        See `Settler.settle_transfer`.

        Only the facilitator that a transfer is bound to can move less than it was asked
        for. What it left is lost; nothing more is bound to it.
        """
        order, by = self._transfer_order(transfer, amount), self._by(transfer)
        due = min(amount, self._endpoints.asked_for(order.key, amount))
        request = asks.transfer_request(transfer, amount, listing)
        settled = await self._orders.carry_out(order, request, by=by)
        self._compare(transfer, settled, due)
        return settled

    async def _look_at(self, transfer: Transfer) -> None:
        """Compare one that moved after nobody said what became of it."""
        due = self._endpoints.asked_for(transfer.id, 0)
        found = await self._transfer_order(transfer, due).find() if due else None
        if found is not None:
            self._endpoints.forget(transfer.id)
            self._compare(transfer, found, due)

    def _compare(self, transfer: Transfer, settled: Settled, due: int) -> None:
        bound = transfer.facilitator
        if bound is not None and settled.amount < due:
            _log.warning(
                "facilitator %s moved %d of %d from %s, and keeps payers from the rest:"
                " nothing more is bound to it",
                bound,
                settled.amount,
                due,
                transfer.payer,
            )
            self._endpoints.distrust(bound)

    def _transfer_order(self, transfer: Transfer, amount: int) -> Order:
        what = f"transfer {amount} from {transfer.payer}"

        async def find() -> Settled | None:
            receipt = await find_transfer(self._reads, transfer)
            return None if receipt is None else transfer_result(transfer, receipt)

        async def result(receipt: Receipt) -> Settled:
            if not await moved_by(self._reads, transfer, receipt):
                raise TransactionFailed(what, reason="it is another's transaction")
            return transfer_result(transfer, receipt)

        return Order(
            key=transfer.id,
            what=what,
            amount=amount,
            valid_before=transfer.valid_before,
            chain=self._reads,
            used=lambda: is_used(self._reads, transfer),
            find=find,
            result=result,
        )

    async def verify_deposit(
        self, deposit: Deposit, voucher: HeldVoucher, *, listing: Listing | None = None
    ) -> None:
        """
        See `Settler.verify_deposit`.

        What somebody was given may be mined yet, whatever is said of it now.
        """
        request = asks.deposit_request(deposit, voucher, listing)
        answer = await self._endpoints.question(request, by=None)
        if answer.is_valid:
            return
        order = self._deposit_order(deposit)
        if not self._endpoints.was_given(order.key):
            reason = answer.invalid_reason or "invalid"
            raise TransactionFailed(order.what, reason=reason)
        await self._orders.resolve(order)

    async def deposit(
        self, deposit: Deposit, voucher: HeldVoucher, *, listing: Listing | None = None
    ) -> Settled:
        """See `Settler.deposit`."""
        request = asks.deposit_request(deposit, voucher, listing)
        return await self._orders.carry_out(
            self._deposit_order(deposit), request, by=None
        )

    def _deposit_order(self, deposit: Deposit) -> Order:
        async def find() -> Settled | None:
            transaction = await find_deposit(self._reads, deposit)
            if transaction is None:
                return None
            return Settled(transaction=transaction, amount=deposit.amount)

        async def result(receipt: Receipt) -> Settled:
            return deposit_result(deposit, receipt)

        return Order(
            key=f"deposit:{deposit.digest().hex()}",
            what=f"deposit {deposit.amount} by {deposit.config.payer}",
            amount=deposit.amount,
            valid_before=deposit.valid_before,
            chain=self._reads,
            used=lambda: is_used(self._reads, deposit),
            find=find,
            result=result,
        )

    def _by(self, transfer: Transfer) -> tuple[Address, str] | None:
        if transfer.facilitator is None:
            return None
        return transfer.facilitator, network_of(transfer.asset.chain)

    # What the payee orders.

    async def claim(
        self, claims: Sequence[VoucherClaim], *, authorizer: Signer, deadline: int = 0
    ) -> Settled:
        """See `Settler.claim`; HTTP has no word for a deadline."""
        chain = self._reads.chain_id
        digest = claim_batch_digest(claims, chain)
        signature = await authorizer.sign_digest(digest, chain=chain)
        request = asks.claim_request(claims, signature, self._token)
        key, what = digest.hex(), f"claim {len(claims)} channel(s)"
        ids = [channel_id(claim.config, chain) for claim in claims]

        async def done() -> bool:
            pairs = zip(claims, await read_claimed(self._reads, ids), strict=True)
            return all(claimed >= row.total_claimed for row, claimed in pairs)

        async def moved(receipt: Receipt) -> int:
            return claimed_in(claims, receipt, self._reads) if await done() else 0

        try:
            return await self._repeat(key, request, what, moved)
        except (TransactionFailed, TransactionOutcomeUnknown):
            if not await done():
                raise
            self._endpoints.hear(key)
            return Settled(transaction="", amount=0)

    async def settle(self, receiver: Address, asset: Asset) -> Settled:
        """See `Settler.settle`."""
        what = f"settle {receiver}"
        request = asks.settle_request(receiver, asset)
        words = [Hash32.of(address_word(a)) for a in (receiver, asset.address)]

        async def moved(receipt: Receipt) -> int:
            return channels.amount_in(receipt.logs, channels.SETTLED, *words) or 0

        return await self._repeat(f"{receiver}{asset.address}", request, what, moved)

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

        async def moved(receipt: Receipt) -> int:
            state = await read_channel(self._reads, channel)
            if state.refund_nonce <= nonce:
                return 0
            return channels.amount_in(receipt.logs, channels.REFUNDED, channel) or 0

        return await self._repeat(digest.hex(), request, what, moved)

    async def _repeat(
        self,
        key: str,
        request: JsonObject,
        what: str,
        moved: Callable[[Receipt], Awaitable[int]],
    ) -> Settled:
        """See `Orders.repeat`; our own chain is looked at, always."""
        order = Repeatable(key=key, what=what, chain=self._reads, moved=moved)
        return await self._orders.repeat(order, request)
