"""
Comes back to what was paid for by signing a challenge, instead of paying again.
"""

from agentpay.ports import Signer
from agentpay.types import ChainId
from agentpay.wire import sign_in
from agentpay.wire.headers import JsonObject, encode_json


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
