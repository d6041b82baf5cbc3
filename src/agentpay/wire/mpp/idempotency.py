"""
`Idempotency-Key`: the name of a request, so that a retry is known as one.

Source: draft-ietf-httpapi-idempotency-key-header, which quotes the key, and what
clients do, which is not to. Both forms of one key are the same key.
"""

import re
from collections.abc import Sequence
from typing import Final

from agentpay.errors import MalformedMessage

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
KEY_CHARS_MAX: Final = 255

_QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]++|\\["\\])++)"')
_PLAIN = re.compile(r"[\x21\x23-\x7e][\x20-\x7e]*+")


def parse_idempotency_key(lines: Sequence[str]) -> str | None:
    """
    Read the key of a request; None means that it has none.

    Raises:
        MalformedMessage: More than one, empty, longer than 255, or not plain ASCII.
    """
    if not lines:
        return None
    if len(lines) > 1:
        raise MalformedMessage(f"a request has {len(lines)} of {IDEMPOTENCY_KEY}")
    text = lines[0].strip(" \t")
    if len(text) > 2 * KEY_CHARS_MAX:
        raise MalformedMessage(f"{IDEMPOTENCY_KEY} is longer than {KEY_CHARS_MAX}")
    if quoted := _QUOTED.fullmatch(text):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    elif _PLAIN.fullmatch(text):
        key = text
    else:
        raise MalformedMessage(f"{IDEMPOTENCY_KEY} is not a key in plain ASCII")
    if len(key) > KEY_CHARS_MAX:
        raise MalformedMessage(f"{IDEMPOTENCY_KEY} is longer than {KEY_CHARS_MAX}")
    return key
