"""`refusal_of`: what nodes of several makers say, and what each means."""

import pytest

from agentpay.chain.json_rpc import NodeRefused
from agentpay.chain.refusals import Refusal, refusal_of


@pytest.mark.parametrize(
    ("message", "number", "meaning"),
    [
        ("already known", -32000, Refusal.KNOWN),
        ("AlreadyKnown", -32010, Refusal.KNOWN),
        ("nonce too low: next nonce 5, tx nonce 4", -32000, Refusal.NONCE_USED),
        ("OldNonce, Current nonce: 5", -32010, Refusal.NONCE_USED),
        ("nonce too high", -32000, Refusal.NONCE_AHEAD),
        ("replacement transaction underpriced", -32000, Refusal.NONCE_PENDING),
        ("ReplacementNotAllowed", -32010, Refusal.NONCE_PENDING),
        ("could not replace existing tx", -32000, Refusal.NONCE_PENDING),
        ("Internal error", -32603, Refusal.BUSY),
        ("rate limit reached", -32005, Refusal.BUSY),
        ("insufficient funds for gas * price + value", -32000, Refusal.FINAL),
        ("transaction underpriced", -32000, Refusal.CHEAP),
        ("FeeTooLow, MaxFeePerGas too low", -32010, Refusal.CHEAP),
        ("max fee per gas less than block base fee", -32003, Refusal.CHEAP),
        ("exceeds block gas limit", -32000, Refusal.FINAL),
    ],
)
def test_a_refusal_is_sorted_by_its_words(
    message: str, number: int, meaning: Refusal
) -> None:
    error: dict[str, object] = {"code": number, "message": message}

    assert refusal_of(NodeRefused("http://h:1", "eth_x", error)) is meaning


@pytest.mark.parametrize("error", [None, "no", 7, [], {}, {"message": 3, "code": "x"}])
def test_an_error_of_any_form_is_final_and_says_something(
    error: dict[str, object] | list[object] | str | int | None,
) -> None:
    refusal = NodeRefused("http://h:1", "eth_x", error)

    assert refusal_of(refusal) is Refusal.FINAL
    assert "eth_x" in str(refusal)


@pytest.mark.parametrize(
    ("data", "raw"),
    [
        ("0x12345678", b"\x124Vx"),
        ("Reverted 0x12345678", b"\x124Vx"),
        ({"data": "0x12345678"}, b"\x124Vx"),
        ("0xzz", b""),
        ("nothing", b""),
        (None, b""),
    ],
)
def test_the_data_of_a_revert_is_found_wherever_a_node_puts_it(
    data: object, raw: bytes
) -> None:
    assert NodeRefused("http://h:1", "eth_call", {"data": data}).data == raw
