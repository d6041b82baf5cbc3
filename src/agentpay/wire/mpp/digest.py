"""
Body digests: what ties a challenge to the request body that it was issued for.

The draft writes them as RFC 9530 does (`sha-256=:...:`), both official SDKs without the
colons. We write what the SDKs compare, and take either.
"""

import base64
import binascii
import hashlib
import hmac
import re

_DIGEST = re.compile(r"sha-256=(:?)([0-9A-Za-z+/]{43}=?)\1", re.ASCII | re.IGNORECASE)


def body_digest(body: bytes) -> str:
    """The `digest` parameter for a request with this body."""
    raw = hashlib.sha256(body).digest()
    return "sha-256=" + base64.b64encode(raw).decode("ascii")


def digest_matches(digest: str, body: bytes) -> bool:
    """Whether a `digest` parameter, in either form, is that of this body."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        return False
    try:
        raw = base64.b64decode(match[2].rstrip("=") + "=", validate=True)
    except binascii.Error:
        return False
    return hmac.compare_digest(raw, hashlib.sha256(body).digest())
