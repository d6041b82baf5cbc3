"""A payer's channels and budgets as SQLite reads them back."""

import sqlite3

from agentpay.core.budget import Budget
from agentpay.records import PayerRecord
from agentpay.stores.rows import payer
from agentpay.stores.sqlite.tables import read
from agentpay.types import Address, Hash32

Key = tuple[Address, Hash32]
"""An account and one of its channels."""


def load_channel(connection: sqlite3.Connection, key: Key) -> PayerRecord | None:
    """
    Raises:
        ValueError: A row is not one that we wrote.
    """
    raw = key[0].to_bytes(), key[1].to_bytes()
    for row in read(connection, payer.CHANNELS, raw):
        signed = read(connection, payer.SIGNED, raw, order="cumulative")
        tickets = read(connection, payer.TICKETS, raw, order="position")
        return payer.to_record(row, signed, tickets)
    return None


def load_budget(connection: sqlite3.Connection, account: Address) -> Budget:
    """
    Raises:
        ValueError: A row is not one that we wrote.
    """
    key = (account.to_bytes(),)
    spent = read(connection, payer.SPENT, key, order="position")
    holds = read(connection, payer.HOLDS, key, order="position")
    lapses = read(connection, payer.LAPSES, key, order="position")
    return payer.to_budget(spent, holds, lapses)


def list_channels(connection: sqlite3.Connection, account: Address) -> list[Hash32]:
    rows = connection.execute(
        "SELECT channel FROM payer_channels WHERE account = ?", (account.to_bytes(),)
    )
    return [Hash32.of(channel) for (channel,) in rows]
