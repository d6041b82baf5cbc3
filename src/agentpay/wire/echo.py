"""
What a payment says back of the extensions that its 402 offered.

Source: x402 `specs/x402-specification-v2.md`, 5.1.2: a client includes at least the
`info` that it received, and may add to it. A server compares, and refuses what was
changed (`extension_echo_mismatch`); what is left out it does not compare.
"""

import json
from collections.abc import Mapping
from typing import Final

from agentpay.wire import offer_receipt, parallel, sign_in
from agentpay.wire.headers import JsonObject, JsonValue

BYTES_MAX: Final = 4 * 1024
"""What is echoed of extensions that we do not use: headers have to fit through proxies,
and a 402 is not to decide how large our requests are."""

_ANSWERED_ELSEWHERE: Final = frozenset({offer_receipt.KEY, parallel.KEY, sign_in.KEY})
"""Offers are signed for us to keep, a challenge has a header, ours says less."""


def echo(offered: Mapping[str, JsonValue], ours: JsonObject) -> JsonObject:
    """
    The extensions of a payment: `ours` with what was offered under the same names, and
    all others as they came, known or not.

    One that does not fit goes without its schema, or not at all.
    """
    said: JsonObject = {n: _added(offered.get(n), words) for n, words in ours.items()}
    left = BYTES_MAX
    for name, words in offered.items():
        if name in said or name in _ANSWERED_ELSEWHERE or not isinstance(words, dict):
            continue
        for form in (words, {"info": words.get("info")}):
            size = len(name) + len(json.dumps(form))
            if size <= left:
                said[name] = form
                left -= size
                break
    return said


def _added(offered: JsonValue, ours: JsonValue) -> JsonObject:
    theirs, mine = _object(offered), _object(ours)
    info = {**_object(theirs.get("info")), **_object(mine.get("info"))}
    return {**theirs, "info": info}


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}
