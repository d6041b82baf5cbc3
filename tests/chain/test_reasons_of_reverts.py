"""`revert_reason`: words from whatever bytes a contract gives."""

from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from agentpay.chain.reverts import revert_reason
from agentpay.evm.batch_settlement_abi import ERROR_NAMES
from agentpay.evm.hashing import keccak

ERROR = bytes.fromhex("08c379a0")
PANIC = bytes.fromhex("4e487b71")


@given(st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=150))
def test_a_text_is_given_back(text: str) -> None:
    assert revert_reason(ERROR + encode(["string"], [text])) == text


def test_a_panic_is_put_in_words() -> None:
    assert revert_reason(PANIC + encode(["uint256"], [0x11])) == "arithmetic overflow"


def test_an_error_of_the_contract_is_named() -> None:
    data = keccak(b"ClaimExceedsBalance()")[:4]

    assert revert_reason(data, ERROR_NAMES) == "ClaimExceedsBalance"


def test_an_error_nobody_named_is_shown_by_its_selector() -> None:
    assert revert_reason(bytes.fromhex("12345678")) == "unknown error 0x12345678"


def test_no_data_is_no_reason() -> None:
    assert revert_reason(b"") == "reverted without a reason"


@given(st.sampled_from([b"", ERROR, PANIC, ERROR[:2]]), st.binary(max_size=200))
def test_any_bytes_give_short_printable_words(selector: bytes, body: bytes) -> None:
    reason = revert_reason(selector + body, ERROR_NAMES)

    assert 0 < len(reason) <= 200
    assert reason.isprintable()


def test_control_characters_of_a_contract_do_not_reach_a_terminal() -> None:
    data = ERROR + encode(["string"], ["\x1b[2Jpaid\n"])

    assert revert_reason(data) == "?[2Jpaid?"
