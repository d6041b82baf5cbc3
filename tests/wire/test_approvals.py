"""The extension that carries an approval as a whole transaction."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage
from agentpay.evm.networks import LOCAL
from agentpay.wire.x402 import Extension
from agentpay.wire.x402_approvals import (
    APPROVAL_KEY,
    approval_info,
    offer,
    read_approvals,
)
from tests.evm.test_approval import GOOD, signed

ASSET = LOCAL.usdc
OURS = signed(replace(GOOD, chain=ASSET.chain, token=ASSET.address))


def read(info: Any, *, amount: int = 1000, sponsors: bool = True) -> Any:
    extensions = {APPROVAL_KEY: Extension(info=info)}
    found = read_approvals(
        extensions, ASSET, payer=OURS.owner, amount=amount, sponsors=sponsors
    )
    return found.transaction


def written() -> dict[str, Any]:
    extension: Any = approval_info(OURS)[APPROVAL_KEY]
    info: dict[str, Any] = extension["info"]
    return info


def test_what_is_written_is_read() -> None:
    assert read(written()) == OURS
    assert read(written(), amount=1) == OURS


def test_an_echo_of_the_offer_is_no_approval() -> None:
    assert read(offer()["info"]) is None


def test_who_does_not_pay_for_it_does_not_read_it() -> None:
    assert read({"signedTransaction": 7}, sponsors=False) is None


def test_c11_it_covers_the_payment() -> None:
    with pytest.raises(MalformedMessage, match="approves 1000"):
        read(written(), amount=1001)


@given(
    st.sampled_from(sorted(written())),
    st.none() | st.integers() | st.text(max_size=50) | st.just("0x" + "11" * 20),
)
def test_f7_a_changed_field_is_refused_in_words(field: str, value: object) -> None:
    info = {**written(), field: value}
    if field == "version" and isinstance(value, str):
        return
    with pytest.raises(MalformedMessage, match=APPROVAL_KEY):
        read(info)
