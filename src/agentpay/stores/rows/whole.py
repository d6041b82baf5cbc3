"""All rows of a store as JSON lines, and back: to move it to another database."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from agentpay.errors import ConfigurationError
from agentpay.stores.rows import payee, payer
from agentpay.stores.rows.answers import ANSWERS
from agentpay.stores.rows.columns import Row, amount, integer, text
from agentpay.stores.rows.sending import SENT
from agentpay.stores.rows.tables import Column, Put, Table

TABLES: Final = {
    payee.CHANNELS: "channel",
    payee.USED: "channel, cumulative",
    payee.RUNNING: "position",
    payee.PAYMENTS: "id",
    payee.MARKS: "name",
    payee.CURSORS: "name",
    ANSWERS: "key",
    SENT: "chain, account, nonce, owner",
    payer.CHANNELS: "account, channel",
    payer.SIGNED: "account, channel, cumulative",
    payer.TICKETS: "position",
    payer.SPENT: "position",
    payer.HOLDS: "position",
    payer.LAPSES: "position",
}
"""Every table, and the order in which its rows are to be read."""

_BY_NAME: Final = {table.name: table for table in TABLES}
_HEAD: Final = {"agentpay": "store", "version": 1}

Rows = Iterable[tuple[Table, Row]]


def write_lines(rows: Rows) -> Iterator[str]:
    """One JSON object a line: amounts are decimal text, bytes are hexadecimal."""
    yield json.dumps(_HEAD)
    for table, row in rows:
        fields = {
            name: _to_json(value, kind)
            for name, kind, value in zip(table.names, table.kinds, row, strict=True)
        }
        yield json.dumps({"table": table.name, **fields})


def read_lines(lines: Iterable[str]) -> list[Put]:
    """
    Raises:
        ConfigurationError: A line is not one of `write_lines`; says which.
    """
    changes: list[Put] = []
    for number, line in enumerate(lines, start=1):
        try:
            fields: dict[str, Any] = json.loads(line)
            if number == 1:
                _check_head(fields)
                continue
            changes.append(_to_put(fields))
        except Exception as error:
            raise ConfigurationError(
                f"line {number} is not of a store that agentpay exported: {error!r}"
            ) from error
    return changes


def _to_put(fields: dict[str, Any]) -> Put:
    table = _BY_NAME[fields.pop("table")]
    if set(fields) != set(table.names):
        raise ValueError(f"table {table.name} has the columns {table.columns}")
    columns = zip(table.names, table.kinds, strict=True)
    return Put(table, tuple([_from_json(fields[name], kind) for name, kind in columns]))


def _check_head(fields: dict[str, Any]) -> None:
    if fields != _HEAD:
        raise ValueError(f"an export begins with {json.dumps(_HEAD)}")


def _to_json(value: Column, kind: str) -> object:
    if value is None:
        return None
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if kind == "amount":
        return str(value)
    return bool(value) if kind == "flag" else value


def _from_json(value: object, kind: str) -> Column:
    match kind, value:
        case _, None:
            return None
        case "bytes", str() if value.startswith("0x"):
            return bytes.fromhex(value[2:])
        case "amount", str() if value.isascii() and value.isdecimal():
            return amount(int(value))
        case "integer", int() if not isinstance(value, bool):
            return integer(value)
        case "text", str():
            return text(value)
        case "flag", bool():
            return value
        case _:
            raise ValueError(f"{value!r} is no {kind}")
