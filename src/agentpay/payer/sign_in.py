"""
Comes back to what was paid for by signing a challenge, instead of paying again.

Source: x402 `specs/extensions/sign-in-with-x.md`.
"""

from collections import OrderedDict
from collections.abc import Callable

from agentpay.payer.keys import PayerKeys
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Target
from agentpay.ports import Signer
from agentpay.types import ChainId
from agentpay.wire import sign_in
from agentpay.wire.headers import JsonObject, encode_json

_ROUTES_MAX = 1024


class Returns:
    """
    Where this agent has paid, and may come back: remembered while it runs.

    A challenge is signed only where an answer was paid for before, so that nobody else
    learns whose wallet it is, and once: it belongs to one 402.
    """

    def __init__(self, keys: PayerKeys, *, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._clock = clock
        self._paid: OrderedDict[tuple[str, str], None] = OrderedDict()

    def paid(self, offer: Offer, target: Target) -> None:
        """An answer was bought; the next may be free, if its 402 said so."""
        if sign_in.KEY in offer.extensions and self._keys.may_deposit:
            self._paid[target.route] = None
            self._paid.move_to_end(target.route)
            if len(self._paid) > _ROUTES_MAX:
                self._paid.popitem(last=False)

    def may(self, target: Target) -> bool:
        """Whether a 402 of this route is worth a signature."""
        return target.route in self._paid

    def refused(self, target: Target) -> None:
        """What was paid there opens it no more."""
        self._paid.pop(target.route, None)

    async def sign(self, offer: Offer, target: Target) -> str | None:
        """
        The `SIGN-IN-WITH-X` header for the challenge that came with an offer just now;
        None if there is none for us.
        """
        if not self.may(target):
            return None
        return await sign_challenge(
            offer.extensions,
            url=target.url,
            signer=self._keys.wallet,
            chain=offer.asset.chain,
            now=int(self._clock()),
        )


async def sign_challenge(
    extensions: JsonObject, *, url: str, signer: Signer, chain: ChainId, now: int
) -> str | None:
    """
    The `SIGN-IN-WITH-X` header for the challenge of a 402, if it has one for us.

    Signed only where it is asked by the very origin that was requested, so that nobody
    can use it elsewhere.
    """
    found = sign_in.read_challenge(extensions, chain)
    if found is None:
        return None
    challenge, words = found
    if not challenge.is_of(url) or challenge.wrong_time(now) is not None:
        return None
    digest = challenge.digest(signer.address, chain)
    signature = await signer.sign_digest(digest, chain=chain)
    return encode_json(sign_in.write_sign_in(words, signer.address, chain, signature))
