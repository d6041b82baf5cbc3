"""
Channels of x402's `batch-settlement`, as the kind of channels that they are.
"""

import json
from collections.abc import Mapping
from dataclasses import astuple, replace
from functools import partial

from agentpay.core.payer_channel import PendingDeposit
from agentpay.errors import (
    ChannelUnusable,
    InvariantViolated,
    OfferUntrusted,
    TransactionFailed,
)
from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.batch_settlement import (
    PARALLEL_TAG,
    ChannelConfig,
    channel_id,
    voucher_digest,
)
from agentpay.evm.batch_settlement_abi import voucher_digest_call
from agentpay.evm.deposit import Deposit
from agentpay.onchain import read_channel
from agentpay.payer.approvals import Approvals
from agentpay.payer.channel_key import ChannelKey, Key, asset_in, key_of
from agentpay.payer.channel_kind import (
    ChannelState,
    OfferTerms,
    Ticketed,
    VoucherPayment,
)
from agentpay.payer.channel_payment import ChannelPayment, never, nothing
from agentpay.payer.corrected import read_offered
from agentpay.payer.keys import PayerKeys
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Answer, Target
from agentpay.payer.signing import (
    VoucherForms,
    answer_extensions,
    is_named,
    sign_amount,
    sign_voucher,
    unsigned_deposits,
)
from agentpay.payer.underway import Whereabouts, ended
from agentpay.ports import Chain
from agentpay.records import Config, PayerRecord
from agentpay.types import Address, Asset, ChainId, Hash32
from agentpay.wire.voucher_receipts import ReceiptReader
from agentpay.wire.x402_terms import method_of

_RUNS_SECONDS_MIN, _RUNS_SECONDS_MAX = 5, 600
"""How long a request keeps a channel of x402's own server busy, whatever it offers."""
_ANY_CHANNEL = Hash32.of(bytes(32))
"""Whose voucher is hashed to see how: it need not exist."""


class BatchKind:
    """x402's channels, of one payer. Implements `ChannelKind`."""

    def __init__(
        self,
        *,
        keys: PayerKeys,
        ledger: PayerLedger,
        assets: tuple[Asset, ...],
        chains: Mapping[ChainId, Chain],
        approvals: Approvals,
    ) -> None:
        self._keys = keys
        self._ledger = ledger
        self._assets = assets
        self._chains = chains
        self._approvals = approvals
        self._forms = VoucherForms()
        self._receipts = ReceiptReader()
        self._checked: set[ChainId] = set()

    def key_of(self, offer: Offer, target: Target, authorizer: Address) -> Key | None:
        """See `ChannelKind.key_of`."""
        if offer.channel is None:
            return None
        return key_of(offer, offer.channel, target, authorizer)

    def key_in(self, record: PayerRecord) -> Key | None:
        """See `ChannelKind.key_in`."""
        config = record.config
        if not isinstance(config, ChannelConfig):
            return None
        return ChannelKey(
            origin=record.origin,
            chain=record.chain,
            payer_authorizer=config.payer_authorizer,
            pay_to=config.receiver,
            authorizer=config.receiver_authorizer,
            token=config.token,
            withdraw_delay=config.withdraw_delay,
            tagged=record.ledger.tagged,
        )

    def terms_of(self, offer: Offer) -> OfferTerms:
        """See `ChannelKind.terms_of`."""
        if offer.channel is None:
            raise ChannelUnusable("the offer has no channel terms")
        return OfferTerms(
            parallel=offer.channel.parallel, deposit_min=offer.channel.min_deposit
        )

    async def check(self, key: Key) -> None:
        """
        See `ChannelKind.check`. Once per chain: what stands at the one address of the
        contract hashes a voucher as we do, so that we sign for what holds the money.
        """
        if key.chain in self._checked:
            return
        call = voucher_digest_call(_ANY_CHANNEL, 1)
        try:
            (digest,) = await self._chains[key.chain].read([call])
        except TransactionFailed:
            digest = b""
        if digest != voucher_digest(_ANY_CHANNEL, 1, key.chain):
            raise OfferUntrusted(
                f"what is at {BATCH_SETTLEMENT} on chain {key.chain} is not x402's"
                " contract of channels: use another chain, or another scheme"
            )
        self._checked.add(key.chain)

    async def config(self, key: Key, index: int) -> ChannelConfig:
        """See `ChannelKind.config`."""
        if not isinstance(key, ChannelKey):
            raise InvariantViolated(f"not of a channel: {key}")
        purpose = json.dumps([*astuple(key), index], separators=(",", ":")).encode()
        secret = await self._keys.wallet.derive_secret(b"channel salt " + purpose)
        salt = PARALLEL_TAG + secret[4:] if key.tagged else b"\0" * 4 + secret[4:]
        return ChannelConfig(
            payer=self._keys.account,
            payer_authorizer=key.payer_authorizer,
            receiver=key.pay_to,
            receiver_authorizer=key.authorizer,
            token=key.token,
            withdraw_delay=key.withdraw_delay,
            salt=Hash32.of(salt),
        )

    def id_of(self, config: Config, chain: ChainId) -> Hash32:
        """See `ChannelKind.id_of`."""
        if not isinstance(config, ChannelConfig):
            raise InvariantViolated(f"not of a channel: {config}")
        return channel_id(config, chain)

    async def state(self, config: Config, chain: ChainId) -> ChannelState:
        """See `ChannelKind.state`."""
        state = await read_channel(self._chains[chain], self.id_of(config, chain))
        return ChannelState(
            unused=state.unused, balance=state.balance, claimed=state.claimed
        )

    def deposits(
        self, record: PayerRecord, asset: Asset, pending: PendingDeposit
    ) -> Mapping[str, Deposit]:
        """See `ChannelKind.deposits`."""
        return unsigned_deposits(record, asset, pending)

    async def sign(self, ticketed: Ticketed) -> ChannelPayment:
        """See `ChannelKind.sign`."""
        record, issued, offer = ticketed.record, ticketed.issued, ticketed.offer
        if issued.deposit is None and not is_named(offer, tagged=record.ledger.tagged):
            return await self._fill(ticketed)
        deposit: Deposit | None = None
        if issued.deposit is not None:
            deposit = self.deposits(record, offer.asset, issued.deposit)[offer.method]
        async with self._approvals.along(offer, issued.deposit) as approval:
            credential = await sign_voucher(
                self._keys,
                record,
                issued.cumulative,
                kind="deposit" if deposit else "voucher",
                url=ticketed.target.url,
                words=offer.words,
                deposit=(deposit, self._chains[record.chain]) if deposit else None,
                extensions=answer_extensions(
                    offer, approvals=approval.along, tagged=record.ledger.tagged
                ),
                about=offer.about if deposit else None,
            )
        return ChannelPayment(
            ledger=self._ledger,
            record=record,
            cumulative=issued.cumulative,
            maximum=offer.amount,
            credential=credential,
            deposit=issued.deposit,
            leave=ticketed.leave,
            left=ticketed.left,
            approval=approval,
            is_made=partial(ticketed.is_made, deposit) if deposit else never,
            uncarried=ticketed.uncarried,
            runs_seconds=_runs_seconds(record, offer.max_timeout_seconds),
        )

    async def _fill(self, ticketed: Ticketed) -> ChannelPayment:
        """A voucher alone: most of them, and all but two values as it was before."""
        record, cumulative = ticketed.record, ticketed.issued.cumulative
        form = self._forms.form(record, ticketed.offer, url=ticketed.target.url)
        signature = await sign_amount(self._keys, record, cumulative)
        return ChannelPayment(
            ledger=self._ledger,
            record=record,
            cumulative=cumulative,
            maximum=ticketed.offer.amount,
            credential=form.filled(cumulative, signature),
            deposit=None,
            leave=ticketed.leave,
            left=ticketed.left,
            read_receipt=self._receipts.read,
            runs_seconds=_runs_seconds(record, ticketed.offer.max_timeout_seconds),
        )

    def to_ask(self, record: PayerRecord) -> list[int]:
        """See `ChannelKind.to_ask`."""
        amounts = [ticket.cumulative for ticket in record.ledger.open]
        if record.ledger.tagged and not amounts:
            amounts = [record.ledger.highest]
        return amounts

    def asking_method(self, method: str) -> str:
        """See `ChannelKind.asking_method`."""
        return method

    async def question(
        self,
        record: PayerRecord,
        cumulative: int,
        *,
        underway: Whereabouts = ended,
    ) -> ChannelPayment:
        """
        See `ChannelKind.question`. On a parallel channel it says that it only asks.

        On a lane it is for nothing, which covers no request, whatever its payee takes
        for our total: that is what it answers with (rule 20).
        """
        ledger = record.ledger
        words = json.loads(record.offer or "{}")
        first: Deposit | None = None
        if (pending := self._along(record)) is not None:
            asset = asset_in(record, self._assets)
            ways = self.deposits(record, asset, pending)
            first = ways.get(method_of(words))
        credential = await sign_voucher(
            self._keys,
            record,
            cumulative if ledger.tagged else 0,
            kind="deposit" if first else "voucher",
            url=record.url.partition(" ")[2],
            words=words,
            query=True,
            deposit=(first, self._chains[record.chain]) if first else None,
        )
        ticket = ledger.ticket(cumulative)
        return ChannelPayment(
            ledger=self._ledger,
            record=record,
            cumulative=cumulative,
            maximum=ticket.maximum if ticket else 0,
            credential=credential,
            deposit=None,
            leave=nothing,
            left=nothing,
            runs_seconds=_runs_seconds(record, int(words.get("maxTimeoutSeconds", 0))),
            underway=underway,
        )

    def renewed(self, payment: VoucherPayment, answer: Answer) -> VoucherPayment | None:
        """See `ChannelKind.renewed`: x402 frames nothing."""
        del payment, answer
        return None

    async def repriced(
        self, payment: VoucherPayment, answer: Answer
    ) -> VoucherPayment | None:
        """
        See `ChannelKind.repriced`. A strict payee looks at no voucher under an offer
        that it does not make any more, be it for nothing.
        """
        if not isinstance(payment, ChannelPayment):
            return None
        asked = payment.record
        record = await self._ledger.read(asked.channel)
        if record is None or record.ledger.tagged or self._along(record) is not None:
            return None
        offered = read_offered(answer, record)
        if not offered or json.loads(asked.offer or "{}") in offered:
            return None
        fresh = replace(record, url=asked.url, offer=json.dumps(offered[0]))
        return await self.question(fresh, payment.cumulative, underway=payment.underway)

    def _along(self, record: PayerRecord) -> PendingDeposit | None:
        """A first deposit that is open: it goes along with each question, as it was."""
        ledger = record.ledger
        return ledger.deposit if not ledger.balance and self._keys.may_deposit else None


def _runs_seconds(record: PayerRecord, said: int) -> float:
    """x402's own server says of no request that it runs; its offer says how long."""
    if record.ledger.tagged:
        return 0
    return max(_RUNS_SECONDS_MIN, min(said, _RUNS_SECONDS_MAX))
