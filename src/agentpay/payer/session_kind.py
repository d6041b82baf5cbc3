"""
Sessions of MPP's `evm/session`, as the kind of channels that they are.

Source: draft-evm-session-00. A session is opened by the deposit that goes along with
its first voucher, filled up with later ones, and asked about by `HEAD`.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import astuple
from functools import partial

from agentpay.core.payer_channel import ExitWanted, PendingDeposit
from agentpay.errors import (
    ChainError,
    ChannelUnusable,
    InvariantViolated,
    MalformedMessage,
    OfferUntrusted,
    TransactionFailed,
)
from agentpay.evm import session_escrow_abi as escrow_abi
from agentpay.evm.batch_settlement import PARALLEL_TAG
from agentpay.evm.eip3009_abi import decode_uint
from agentpay.evm.session_deposit import SessionDeposit
from agentpay.evm.session_escrow import Escrow, SessionConfig, SessionTerms, separator
from agentpay.onchain import read_session
from agentpay.payer.approvals import Approvals
from agentpay.payer.channel_key import Key, SessionKey, asset_in
from agentpay.payer.channel_kind import (
    ChannelState,
    OfferTerms,
    Ticketed,
    VoucherPayment,
)
from agentpay.payer.channel_payment import never, nothing
from agentpay.payer.keys import PayerKeys
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Answer, Target
from agentpay.payer.policy import Policy
from agentpay.payer.session_ending import book_end
from agentpay.payer.session_offer import session_of
from agentpay.payer.session_payment import SessionPayment
from agentpay.payer.session_signing import (
    BY_AUTHORIZATION,
    framed_in,
    sign_session_deposit,
    sign_session_voucher,
    unsigned_session_deposits,
)
from agentpay.payer.signing import signs_as_contract
from agentpay.payer.underway import Whereabouts, ended
from agentpay.ports import Chain
from agentpay.records import Config, PayerRecord, session_config
from agentpay.signers.smart_wallet import SmartWallet
from agentpay.types import ZERO_ADDRESS, Address, Asset, ChainId, Hash32
from agentpay.wire.mpp.challenge import (
    make_challenge,
)
from agentpay.wire.mpp.evm_session import SessionRequest, parse_session_request
from agentpay.wire.x402 import EIP3009, PERMIT2

_log = logging.getLogger(__name__)


class SessionKind:
    """MPP's sessions, of one payer. Implements `ChannelKind`."""

    def __init__(
        self,
        *,
        keys: PayerKeys,
        ledger: PayerLedger,
        policy: Policy,
        assets: tuple[Asset, ...],
        chains: Mapping[ChainId, Chain],
        approvals: Approvals,
    ) -> None:
        self._keys = keys
        self._ledger = ledger
        self._policy = policy
        self._assets = assets
        self._chains = chains
        self._approvals = approvals
        self._checked: set[Escrow] = set()

    def key_of(self, offer: Offer, target: Target, authorizer: Address) -> Key | None:
        """See `ChannelKind.key_of`. The payer's own vouchers are nobody's by name."""
        if offer.mpp is None or not isinstance(offer.mpp.request, SessionRequest):
            return None
        session = session_of(offer)
        own = authorizer == self._keys.account
        return SessionKey(
            origin=target.origin,
            chain=offer.asset.chain,
            authorized_signer=ZERO_ADDRESS if own else authorizer,
            payee=offer.pay_to,
            token=offer.asset.address,
            escrow=session.escrow.contract,
            tagged=session.parallel is not None,
        )

    def key_in(self, record: PayerRecord) -> Key | None:
        """See `ChannelKind.key_in`."""
        config = record.config
        if not isinstance(config, SessionConfig):
            return None
        return SessionKey(
            origin=record.origin,
            chain=record.chain,
            authorized_signer=config.terms.authorized_signer,
            payee=config.terms.payee,
            token=config.terms.token,
            escrow=config.escrow.contract,
            tagged=record.ledger.tagged,
        )

    def terms_of(self, offer: Offer) -> OfferTerms:
        """See `ChannelKind.terms_of`."""
        session = session_of(offer)
        return OfferTerms(
            parallel=session.parallel,
            deposit_min=0,
            rise=session.rise,
            whole=session.whole,
        )

    async def check(self, key: Key) -> None:
        """See `ChannelKind.check`: the draft gives an escrow no address of its own."""
        escrow = Escrow(chain=key.chain, contract=_session_key(key).escrow)
        if _session_key(key).authorized_signer == ZERO_ADDRESS and isinstance(
            self._keys.wallet, SmartWallet
        ):
            raise signs_as_contract(self._keys.account)
        if escrow in self._checked:
            return
        facts = [
            escrow_abi.separator_call(escrow),
            escrow_abi.grace_seconds_call(escrow),
        ]
        try:
            domain, grace = await self._chains[key.chain].read(facts)
            grace_seconds = decode_uint(grace)
        except (ValueError, TransactionFailed) as error:
            raise OfferUntrusted(
                f"there is no escrow of MPP's sessions at {escrow.contract}"
            ) from error
        if domain != separator(escrow):
            raise OfferUntrusted(f"the domain of escrow {escrow.contract} is another")
        if grace_seconds > self._policy.withdraw_delay_max:
            raise OfferUntrusted(
                f"to leave escrow {escrow.contract} takes {grace_seconds} s, above our"
                " policy"
            )
        self._checked.add(escrow)

    async def config(self, key: Key, index: int) -> SessionConfig:
        """See `ChannelKind.config`."""
        named = _session_key(key)
        purpose = json.dumps([*astuple(named), index], separators=(",", ":")).encode()
        secret = await self._keys.wallet.derive_secret(b"session salt " + purpose)
        tag = PARALLEL_TAG if named.tagged else b"\0" * len(PARALLEL_TAG)
        terms = SessionTerms(
            payer=self._keys.account,
            payee=named.payee,
            token=named.token,
            salt=Hash32.of(tag + secret[len(tag) :]),
            authorized_signer=named.authorized_signer,
        )
        escrow = Escrow(chain=named.chain, contract=named.escrow)
        return SessionConfig(terms=terms, escrow=escrow)

    def id_of(self, config: Config, chain: ChainId) -> Hash32:
        """See `ChannelKind.id_of`."""
        del chain  # a session's escrow says it
        return _config_of(config).channel

    async def state(self, config: Config, chain: ChainId) -> ChannelState:
        """See `ChannelKind.state`."""
        state = await read_session(self._chains[chain], _config_of(config))
        return ChannelState(
            unused=not state.exists,
            balance=state.settled if state.finalized else state.deposit,
            claimed=state.settled,
        )

    def deposits(
        self, record: PayerRecord, asset: Asset, pending: PendingDeposit
    ) -> Mapping[str, SessionDeposit]:
        """See `ChannelKind.deposits`."""
        return unsigned_session_deposits(record, asset, pending)

    async def sign(self, ticketed: Ticketed) -> SessionPayment:
        """See `ChannelKind.sign`."""
        record, issued, offer = ticketed.record, ticketed.issued, ticketed.offer
        if offer.mpp is None:
            raise InvariantViolated(f"an offer of {offer.scheme} has no challenge")
        deposit: SessionDeposit | None = None
        part = None
        if issued.deposit is not None:
            deposit = self.deposits(record, offer.asset, issued.deposit)[offer.method]
        async with self._approvals.along(offer, issued.deposit) as approval:
            signature = await sign_session_voucher(
                self._keys, record, issued.cumulative
            )
            if deposit is not None:
                chain = self._chains[record.chain]
                part = await sign_session_deposit(self._keys, deposit, chain)
        return SessionPayment(
            ledger=self._ledger,
            record=record,
            cumulative=issued.cumulative,
            signed=issued.cumulative,
            signature=signature,
            challenge=offer.mpp.challenge,
            leave=ticketed.leave,
            left=ticketed.left,
            gone=self._end,
            deposit=issued.deposit,
            deposit_part=part,
            approval=approval,
            is_made=partial(ticketed.is_made, deposit) if deposit else never,
        )

    # Asking.

    def to_ask(self, record: PayerRecord) -> list[int]:
        """See `ChannelKind.to_ask`."""
        amounts = [ticket.cumulative for ticket in record.ledger.open]
        return amounts or [record.ledger.highest]

    def asking_method(self, method: str) -> str:
        """See `ChannelKind.asking_method`: a `HEAD` has no content to buy."""
        del method
        return "HEAD"

    async def question(
        self,
        record: PayerRecord,
        cumulative: int,
        *,
        underway: Whereabouts = ended,
    ) -> SessionPayment:
        """
        See `ChannelKind.question`. It raises what the payee holds, and buys nothing:
        on a parallel session the payee burns an amount that it has not seen.
        """
        del underway
        ledger = record.ledger
        try:
            challenge = make_challenge(json.loads(record.offer or "{}"), name="offer")
            asked = parse_session_request(challenge.decode_request())
        except MalformedMessage as error:
            raise ChannelUnusable(f"session {record.channel}: {error}") from error
        part = None
        if ledger.deposit is not None and not ledger.balance and self._keys.may_deposit:
            asset = asset_in(record, self._assets)
            by_token = BY_AUTHORIZATION in asked.method_details.credential_types
            way = EIP3009 if by_token and asset.eip3009 else PERMIT2
            deposit = self.deposits(record, asset, ledger.deposit)[way]
            chain = self._chains[record.chain]
            part = await sign_session_deposit(self._keys, deposit, chain)
        signed = cumulative if ledger.tagged else ledger.highest
        return SessionPayment(
            ledger=self._ledger,
            record=record,
            cumulative=cumulative,
            signed=signed,
            signature=await sign_session_voucher(self._keys, record, signed),
            challenge=challenge,
            leave=nothing,
            left=nothing,
            gone=self._end,
            asks=True,
            deposit_part=part,
        )

    def renewed(self, payment: VoucherPayment, answer: Answer) -> VoucherPayment | None:
        """See `ChannelKind.renewed`: a challenge was over."""
        if not isinstance(payment, SessionPayment):
            return None
        fresh = framed_in(answer, session_config(payment.record))
        return payment.under(fresh) if fresh is not None else None

    async def repriced(
        self, payment: VoucherPayment, answer: Answer
    ) -> VoucherPayment | None:
        """See `ChannelKind.repriced`: a price that is over is a challenge that is."""
        del payment, answer
        return None

    async def _end(self, record: PayerRecord) -> None:
        """
        A payee says that it has no such session: what does the chain say?

        One that is closed gave back the rest. One that is not is left by its payer.
        """
        try:
            state = await read_session(
                self._chains[record.chain], session_config(record)
            )
        except ChainError as error:
            _log.warning("session %s could not be looked at: %s", record.channel, error)
            return
        now = await self._ledger.read(record.channel)
        if now is None or not state.exists:
            return  # a deposit that is open is looked for by itself
        if not state.finalized:
            await self._ledger.book(record.channel, ExitWanted())
            _log.warning(
                "the payee of session %s says that it has none: to get the rest back,"
                " call start_withdrawal",
                record.channel,
            )
            return
        await book_end(record, state, self._ledger)


def _session_key(key: Key) -> SessionKey:
    if not isinstance(key, SessionKey):
        raise InvariantViolated(f"not of a session: {key}")
    return key


def _config_of(config: Config) -> SessionConfig:
    if not isinstance(config, SessionConfig):
        raise InvariantViolated(f"not of a session: {config}")
    return config
