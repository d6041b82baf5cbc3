"""
A node's JSON as values of ours. Pure.

Raises KeyError, TypeError or ValueError for JSON that is not what a node says; the
caller translates (`JsonRpc.reading`).
"""

from typing import Any

from agentpay.evm.calls import Block, Log, Receipt
from agentpay.types import Address, Hash32


def quantity(value: object) -> int:
    """A number, which JSON-RPC writes as `0x1f`."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError("not a quantity")
    return int(value, 16)


def raw_bytes(value: object) -> bytes:
    """Bytes, which JSON-RPC writes as `0x` and hex."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError("not bytes")
    return bytes.fromhex(value[2:])


def block_of(fields: dict[str, Any]) -> Block:
    return Block(
        number=quantity(fields["number"]),
        timestamp=quantity(fields["timestamp"]),
        gas_limit=quantity(fields.get("gasLimit", "0x0")),
    )


def log_of(fields: dict[str, Any]) -> Log:
    return Log(
        address=Address(fields["address"]),
        topics=tuple(Hash32(topic) for topic in fields["topics"]),
        data=raw_bytes(fields["data"]),
        block=quantity(fields["blockNumber"]),
        transaction=Hash32(fields["transactionHash"]),
        index=quantity(fields["logIndex"]),
    )


def receipt_of(fields: dict[str, Any]) -> Receipt:
    return Receipt(
        transaction=Hash32(fields["transactionHash"]),
        block=quantity(fields["blockNumber"]),
        gas_used=quantity(fields["gasUsed"]),
        gas_price=quantity(fields["effectiveGasPrice"]),
        logs=tuple(log_of(log) for log in fields["logs"]),
        to=Address(fields["to"]) if fields.get("to") else None,
    )
