"""Body digests, in the draft's form and in that of the SDKs."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.wire.mpp.digest import body_digest, digest_matches

EMPTY_OBJECT = "RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="
"""SHA-256 of `{}`."""


def test_a_digest_is_written_as_the_sdks_compare_it() -> None:
    assert body_digest(b"{}") == f"sha-256={EMPTY_OBJECT}"


@given(st.binary(max_size=50))
def test_both_forms_of_a_digest_are_taken(body: bytes) -> None:
    value = base64.b64encode(hashlib.sha256(body).digest()).decode()

    assert body_digest(body) == f"sha-256={value}"
    assert digest_matches(f"sha-256={value}", body)
    assert digest_matches(f"sha-256=:{value}:", body)
    assert digest_matches(f"SHA-256={value.rstrip('=')}", body)


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_digest_is_of_one_body(body: bytes, other: bytes) -> None:
    assert digest_matches(body_digest(body), other) == (body == other)


@pytest.mark.parametrize(
    "digest",
    [
        "",
        EMPTY_OBJECT,
        f"sha-512={EMPTY_OBJECT}",
        f"sha-256=:{EMPTY_OBJECT}",
        f"sha-256={EMPTY_OBJECT}:",
        f"sha-256={EMPTY_OBJECT}\n",
        f"sha-256={EMPTY_OBJECT}, sha-256={EMPTY_OBJECT}",
        "sha-256=",
        "sha-256=::",
    ],
)
def test_what_is_no_digest_matches_nothing(digest: str) -> None:
    assert not digest_matches(digest, b"{}")
