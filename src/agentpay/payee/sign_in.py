"""
Lets in who has paid already and signs that it is them (x402's `sign-in-with-x`).

Off, unless a route says for how long a payment opens it. A challenge is good for five
minutes and one request; what was paid for, and what was signed, survives a restart.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping

from agentpay.errors import ChainError, MalformedMessage, StoreError
from agentpay.onchain import wrong_signature
from agentpay.payee.answers import request_of
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.pricing import Terms
from agentpay.ports import Chain, PayeeStore
from agentpay.types import Address
from agentpay.wire import sign_in
from agentpay.wire.headers import JsonObject

_log = logging.getLogger(__name__)

_SWEEP_EVERY = 1024


class SignIns:
    """Who has paid for what, for one payee."""

    def __init__(
        self,
        settings: PayeeSettings,
        *,
        chain: Chain,
        store: PayeeStore,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._store = store
        self._clock = clock
        self._until_sweep = 0

    def challenge(self, terms: Terms) -> JsonObject:
        """The extension of a 402, with a nonce that nobody has seen."""
        now = int(self._clock())
        info: JsonObject = {
            "domain": terms.url.split("/", 3)[2],
            "uri": terms.url,
            "version": "1",
            "nonce": secrets.token_hex(16),
            "issuedAt": _written(now),
            "expirationTime": _written(now + sign_in.FRESH_SECONDS),
            "statement": "Sign in to use what you have paid for",
            "resources": [terms.url],
        }
        return sign_in.offer(info, self._chain.chain_id)

    async def admit(self, header: str, terms: Terms) -> Address | str:
        """
        Who signed in, or the code of why nobody did.

        Raises:
            ChainError, StoreError: It cannot be known now; the challenge is still good.
        """
        try:
            signed = sign_in.parse_sign_in(header)
        except MalformedMessage:
            return "invalid_siwx_header"
        now = int(self._clock())
        if signed.chain_id != self._chain.chain_id:
            return "invalid_siwx_chain"
        if not signed.is_of(terms.url):
            return "invalid_siwx_domain"
        if (wrong := signed.wrong_time(now)) is not None:
            return wrong
        wrong = await wrong_signature(
            self._chain,
            signed.address,
            signed.digest(signed.address, signed.chain_id),
            signed.signature,
            factories=self._settings.wallet_factories,
            code="invalid_siwx_signature",
        )
        if wrong is not None:
            return wrong
        if await self._store.read_mark(_grant(signed.address, terms)) <= now:
            return "siwx_not_paid"
        kept = now + 2 * sign_in.FRESH_SECONDS
        if not await self._store.take_mark(
            f"nonce {signed.nonce}", until=kept, now=now
        ):
            return "invalid_siwx_nonce"
        await self._sweep(now)
        return signed.address

    async def grant(self, payer: Address, terms: Terms) -> None:
        """
        Remember that somebody paid; it was paid for, so that a store that cannot be
        written costs them the right to come back, and not the answer.
        """
        until = int(self._clock()) + terms.access_seconds
        try:
            await self._store.set_mark(_grant(payer, terms), until=until)
        except (ChainError, StoreError) as error:
            _log.warning("a payer may not come back: %s", error.code)

    async def _sweep(self, now: int) -> None:
        self._until_sweep -= 1
        if self._until_sweep < 0:
            self._until_sweep = _SWEEP_EVERY
            await self._store.sweep_marks(now=now)


class FreeSale:
    """A request of somebody who has paid before; see `Sale`."""

    id = key = withheld = ""
    maximum = 0
    stream = whole = None

    def __init__(self, payer: Address) -> None:
        self.payer = payer
        self.headers: Mapping[str, str] = {}

    async def commit(self, charged: int) -> str:
        """There is nothing to charge, and no receipt."""
        del charged
        return ""

    async def delivered(self) -> None:
        """Nothing is open."""

    async def abandon(self, *, charged: int, failed: bool) -> str:
        """Nothing is open."""
        del charged, failed
        return ""


def _grant(payer: Address, terms: Terms) -> str:
    """What was paid for is a method, a path and a query: another query is another."""
    return f"grant {payer} {request_of(terms).hex()}"


def _written(moment: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(moment))
