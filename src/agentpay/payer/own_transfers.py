"""
Pays charges of MPP by transactions of the wallet's own, which cost it gas: signed whole
for the payee to send (`transaction`), or sent by us and presented by their hash.

Source: draft-evm-charge-00, "Transaction Payload" and "Hash Payload". Only by policy,
and where nothing else is taken: such a transaction names no challenge and never
expires. What was signed and bought nothing yet is presented again before anything else
is signed for the same: what we sent until its challenge is over, what a payee was to
send until it is mined.
"""

import asyncio
import contextlib
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import replace

from agentpay.core.budget import Hold, Released, Reserved
from agentpay.errors import (
    ChainError,
    ChallengeUsed,
    GasMissing,
    InvariantViolated,
    KeyElsewhere,
    NonceBusy,
    OfferUntrusted,
    PaymentOutcomeUnknown,
    TransactionFailed,
)
from agentpay.evm.calls import Standing
from agentpay.evm.eip1559 import CallTransaction, SignedCall
from agentpay.evm.plain_transfer import PlainTransfer
from agentpay.onchain import is_void
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import ChallengeTerms, Offer
from agentpay.payer.own_holds import (
    OWN,
    OwnTransfer,
    find_mined,
    free,
    hold_id,
    is_unsigned,
    own_detail,
    read_own,
    resolve_own,
)
from agentpay.payer.own_payment import OwnPayment
from agentpay.payer.payment import Target
from agentpay.payer.policy import Policy, scale
from agentpay.payer.transfer_holds import reserve
from agentpay.ports import Chain, Signer
from agentpay.sending_ports import Relay
from agentpay.signers.smart_wallet import SmartWallet
from agentpay.types import ChainId
from agentpay.wire.mpp.evm_charge import BY_HASH

TRANSFER_GAS = 200_000
"""What a transfer may use; tokens need some 35,000 to 100,000, and pay for no more."""

_LOOK_AGAIN_SECONDS = 0.2
_CHALLENGES_KEPT = 4096


class OwnTransfers:
    """Pays for requests by its wallet's transactions, for one payer."""

    def __init__(
        self,
        ledger: PayerLedger,
        signer: Signer,
        policy: Policy,
        relays: Mapping[ChainId, Relay],
    ) -> None:
        self._signer = signer
        self._ledger = ledger
        self._policy = policy
        self._relays = relays
        self._turns: defaultdict[ChainId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._challenges: OrderedDict[str, None] = OrderedDict()
        self._presented: set[str] = set()
        """Holds of what is presented for a request now."""

    async def pay(self, offer: Offer, target: Target, chain: Chain) -> OwnPayment:
        """
        Reserve the budget, sign, record what was signed, and by `hash` send it.

        Raises:
            BudgetExceeded, ChallengeUsed, KeyElsewhere: Nothing was signed.
            NonceBusy: The wallet's next nonce is taken; nothing has left us.
            GasMissing: The wallet cannot pay for it; nothing was signed.
            PaymentOutcomeUnknown: It was sent, perhaps, and is not mined.
            ChainError: The chain could not be asked; nothing has left us. Or it was
                mined, and did nothing.
        """
        terms, relay = offer.mpp, self._relays.get(offer.asset.chain)
        if terms is None:
            raise InvariantViolated("only a charge is paid by a transaction")
        if relay is None:
            raise OfferUntrusted(f"nothing sends to chain {offer.asset.chain}")
        if isinstance(self._signer, SmartWallet):
            raise KeyElsewhere(
                f"{self._signer.address} is a contract, which sends no transactions"
            )
        challenge = terms.challenge.id
        self._take(challenge)
        try:
            async with self._turns[offer.asset.chain]:
                kept = await self._kept(offer, target, chain, relay)
                own = kept or await self._fresh(offer, terms, target, chain, relay)
        except BaseException:
            self._challenges.pop(challenge, None)  # it was not presented
            raise
        return self._presenting(own, offer, terms, again=kept is not None)

    def _take(self, challenge: str) -> None:
        """
        Raises:
            ChallengeUsed: It was taken before.
        """
        if challenge in self._challenges:
            raise ChallengeUsed(
                "its server gave out a challenge again: ask for another"
            )
        self._challenges[challenge] = None
        if len(self._challenges) > _CHALLENGES_KEPT:
            self._challenges.popitem(last=False)

    async def _fresh(
        self,
        offer: Offer,
        terms: ChallengeTerms,
        target: Target,
        chain: Chain,
        relay: Relay,
    ) -> OwnTransfer:
        """Another one: signed, and mined if it is presented by its hash."""
        standing = await self._next(offer, chain, relay)
        own = await self._sign(offer, terms, target, standing, relay)
        if offer.method == BY_HASH:
            await self._send(own, chain, relay)
        return own

    def _presenting(
        self, own: OwnTransfer, offer: Offer, terms: ChallengeTerms, *, again: bool
    ) -> OwnPayment:
        name = own.hold.id

        self._presented.add(name)
        return OwnPayment(
            ledger=self._ledger,
            own=own,
            offer=offer,
            mpp=terms,
            again=again,
            let_go=lambda: self._presented.discard(name),
        )

    async def _kept(
        self, offer: Offer, target: Target, chain: Chain, relay: Relay
    ) -> OwnTransfer | None:
        """What was signed for the same, bought nothing yet, and still may."""
        wanted = offer.method, target.host, _transfer(offer)
        for own in await self._all(offer):
            same = (own.way, own.hold.host, own.transfer) == wanted
            free_to_go = own.hold.id not in self._presented
            if same and free_to_go and await self._may_buy(own, chain, relay):
                return own
        return None

    async def _may_buy(self, own: OwnTransfer, chain: Chain, relay: Relay) -> bool:
        """What we send is mined then; what a payee has sent has bought something."""
        if own.way != BY_HASH:
            return not await resolve_own(
                own, chain=chain, ledger=self._ledger, presents=False
            )
        if self._ledger.now() > own.hold.valid_before:
            return False
        try:
            await self._send(own, chain, relay)
        except TransactionFailed:
            return False  # another one used its nonce, or it reverted
        return True

    async def _all(self, offer: Offer) -> list[OwnTransfer]:
        budget = await self._ledger.store.budget(self._ledger.account)
        found = [read_own(hold, (offer.asset,)) for hold in budget.holds]
        return [own for own in found if own is not None]

    async def _next(self, offer: Offer, chain: Chain, relay: Relay) -> Standing:
        """
        The wallet's standing, once no transaction of ours waits for its next nonce.

        Raises:
            NonceBusy: One still does.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._policy.give_up_seconds
        account = self._signer.address
        while True:
            standing = await chain.standing(account)
            name = hold_id(offer.asset.chain, account, standing.nonce)
            budget = await self._ledger.store.budget(self._ledger.account)
            hold = budget.hold(name)
            if hold is None:
                return standing
            own, late = read_own(hold, (offer.asset,)), loop.time() > until
            if late and is_unsigned(hold):  # whoever was about to sign it is gone
                await self._ledger.move(offer.asset.decimals, Released(id=name))
                return standing
            if late:
                raise _busy(hold, own)
            if own is not None and own.way == BY_HASH:
                with contextlib.suppress(TransactionFailed, PaymentOutcomeUnknown):
                    await self._send(own, chain, relay)
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def _sign(
        self,
        offer: Offer,
        terms: ChallengeTerms,
        target: Target,
        standing: Standing,
        relay: Relay,
    ) -> OwnTransfer:
        """Reserve, sign, and record what was signed before it leaves us."""
        unsigned = self._unsigned(offer, standing)
        decimals, chain = offer.asset.decimals, offer.asset.chain
        longest = int(self._ledger.now()) + self._policy.authorization_seconds_max
        hold = Hold(
            id=hold_id(chain, self._signer.address, standing.nonce),
            host=target.host,
            amount=scale(offer.amount, decimals),
            valid_before=min(terms.expires_at, longest),
            detail=own_detail(offer.asset, offer.method, None),
        )
        await reserve(self._ledger, hold, decimals=decimals, contested=True)
        try:
            digest = unsigned.digest()
            signature = await self._signer.sign_digest(digest, chain=chain)
            signed = SignedCall(call=unsigned, signature=signature)
            self._check_owner(signed)
            await relay.simulate(signed)
            detail = own_detail(offer.asset, offer.method, signed)
            kept = replace(hold, detail=detail)
            again = Reserved(hold=kept, contested=True)
            await self._ledger.move(decimals, Released(id=hold.id), again)
        except BaseException:
            # Also cancelled: what was signed has not left us, and never will.
            await self._ledger.move(decimals, Released(id=hold.id))
            raise
        return OwnTransfer(
            hold=kept, asset=offer.asset, way=offer.method, signed=signed
        )

    def _check_owner(self, signed: SignedCall) -> None:
        """
        Raises:
            KeyElsewhere: It would be somebody else's transaction.
        """
        if signed.owner != self._signer.address:
            raise KeyElsewhere(
                f"{self._signer.address} does not sign by its own key, and sends no"
                " transactions"
            )

    def _unsigned(self, offer: Offer, standing: Standing) -> CallTransaction:
        call = _transfer(offer).call()
        unsigned = CallTransaction(
            chain=offer.asset.chain,
            nonce=standing.nonce,
            tip=standing.tip,
            fee_max=2 * standing.base_fee + standing.tip,
            gas=TRANSFER_GAS,
            to=call.to,
            data=call.data,
        )
        if unsigned.cost > standing.balance:
            raise GasMissing(
                f"a transfer from {self._signer.address} may cost {unsigned.cost} wei,"
                f" and it has {standing.balance}"
            )
        return unsigned

    async def _send(self, own: OwnTransfer, chain: Chain, relay: Relay) -> None:
        """
        Send it, if it is not there, and wait until it is mined.

        Raises:
            TransactionFailed: It moves nothing, ever; its money is free.
            PaymentOutcomeUnknown: It was sent, perhaps; it stays in the budget.
        """
        try:
            if await find_mined(chain, own.signed) is None:
                await relay.send(own.signed)
        except ChainError as error:
            try:
                void = await is_void(chain, own.signed)
            except ChainError:
                void = False
            if void:
                await free(own, self._ledger)
                if isinstance(error, TransactionFailed):
                    raise
                raise TransactionFailed(own.hold.id, reason=str(error)) from error
            raise PaymentOutcomeUnknown(own.hold.id, str(error)) from error

    async def resolve(self, own: OwnTransfer, chain: Chain) -> bool:
        """See `resolve_own`."""
        fresh = self._ledger.now() <= own.hold.valid_before
        return await resolve_own(
            own,
            chain=chain,
            ledger=self._ledger,
            presents=own.way == BY_HASH and (fresh or own.hold.id in self._presented),
        )


def _busy(hold: Hold, own: OwnTransfer | None) -> NonceBusy:
    """What we send is mined in the end; what a payee was to send, perhaps never."""
    name = hold.id.removeprefix(OWN)
    if own is None or own.way == BY_HASH:
        return NonceBusy(f"transaction {name} pays {hold.host} and is not mined: wait")
    signed = own.signed
    return NonceBusy(
        f"transaction {name} ({signed.hash}) pays {hold.host}, which has not sent it:"
        f" wait; or have {signed.owner} send another one with nonce {signed.call.nonce}"
        " (such as one of nothing, to itself), which takes the money back"
    )


def _transfer(offer: Offer) -> PlainTransfer:
    return PlainTransfer(
        token=offer.asset.address, to=offer.pay_to, amount=offer.amount
    )
