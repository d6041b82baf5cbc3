"""
Whether what a database holds can be true: every record is read, and every sentence that
must hold of it is asked.

It is given all rows, and says what is wrong, one sentence for each finding.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from agentpay.core.budget import Budget
from agentpay.core.payee_channel import PayeeChannel
from agentpay.core.payee_checks import check as check_ledger
from agentpay.errors import InvariantViolated
from agentpay.evm.batch_settlement import ChannelConfig, channel_id
from agentpay.evm.transaction import SignedCall, read_signed_call
from agentpay.records import PayeeRecord, PayerRecord
from agentpay.stores.rows import payee, payer
from agentpay.stores.rows.answers import ANSWERS, to_answer
from agentpay.stores.rows.columns import Row, to_address
from agentpay.stores.rows.sending import SENT, take_over
from agentpay.stores.rows.tables import Columns, Table
from agentpay.types import MONEY_DECIMALS, Address, Hash32

T = TypeVar("T")


class Books:
    """All rows of a store, by their tables."""

    def __init__(self, rows: Iterable[tuple[Table, Row]]) -> None:
        self._rows: dict[Table, list[Row]] = defaultdict(list)
        self._found: list[str] = []
        for table, row in rows:
            self._rows[table].append(row)

    def count(self) -> dict[str, int]:
        """How many rows each table has."""
        return {table.name: len(rows) for table, rows in self._rows.items()}

    def check(self) -> list[str]:
        """What is wrong; nothing if all is well."""
        self._found = []
        self._check_payee()
        self._check_payer()
        for row in self._rows[ANSWERS]:
            what = f"answer {row[0]!r}"
            answer = self._read(what, partial(to_answer, row))
            self._holds(
                what, {"its size is its own": not answer or answer.size == row[6]}
            )
        for table in (payee.MARKS, payee.CURSORS):
            for name, number in self._rows[table]:
                self._holds(repr(name), {"it is not negative": number >= 0})
        for row in self._rows[SENT]:
            self._check_sent(row)
        return self._found

    def _holds(self, what: str, sentences: dict[str, bool]) -> None:
        self._found += [
            f"{what}: not true: {s}" for s, holds in sentences.items() if not holds
        ]

    def _read(self, what: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (ValueError, InvariantViolated) as error:
            self._found.append(f"{what}: cannot be read: {error}")
            return None

    def _parts(
        self, table: Table, width: int, parents: Table
    ) -> dict[Columns, list[Row]]:
        """The rows of a table by their parents, of which each must have one."""
        known = {row[:width] for row in self._rows[parents]}
        parts: dict[Columns, list[Row]] = defaultdict(list)
        for row in self._rows[table]:
            parts[row[:width]].append(row)
        for key in parts.keys() - known:
            name = Hash32.of(key[-1]) if isinstance(key[-1], bytes) else key
            self._found.append(f"{table.name} of {name}: there is no such channel")
        return parts

    def _check_sent(self, row: Row) -> None:
        what = f"transaction {row[2]} of {to_address(row[1])}"
        attempts = self._read(what, partial(_attempts, row))
        if attempts is None:
            return
        first = attempts[0].call(what)
        self._holds(
            what,
            {
                "it was signed for its chain and nonce": all(
                    (a.chain, a.nonce) == (row[0], row[2]) for a in attempts
                ),
                "all attempts are of one call": all(a.carries(first) for a in attempts),
            },
        )

    # A payee's.

    def _check_payee(self) -> None:
        used = self._parts(payee.USED, 1, payee.CHANNELS)
        running = self._parts(payee.RUNNING, 1, payee.CHANNELS)
        for row in self._rows[payee.CHANNELS]:
            key, what = row[:1], f"channel {Hash32.of(row[0])}"
            record = self._read(
                what,
                partial(payee.to_record, row, used[key], running[key]),
            )
            if record is not None:
                self._check_channel(what, record, unclaimed=row[-1])
        for row in self._rows[payee.PAYMENTS]:
            what = f"payment {row[0]!r}"
            payment = self._read(what, partial(payee.to_payment, row))
            if payment is not None:
                moved = payment.charged <= payment.amount
                self._holds(what, {"it moved no more than was signed": moved})

    def _check_channel(self, what: str, record: PayeeRecord, *, unclaimed: int) -> None:
        ledger = record.ledger
        try:
            check_ledger(replace(ledger), ledger)
        except InvariantViolated as error:
            self._found.append(f"{what}: not true: {error}")
        amounts = [used.cumulative for used in ledger.used]
        charged = sum(r.charged for r in ledger.running)
        self._holds(
            what,
            {
                "its id is the hash of its terms": _id_of(record) == record.channel,
                "what runs was charged with the rest": charged <= ledger.charged,
                "what runs is remembered": not ledger.tagged
                or {r.cumulative for r in ledger.running} <= set(amounts),
                "amounts are remembered once, in order": amounts
                == sorted(set(amounts)),
                "what may be claimed is what is due": unclaimed == ledger.unclaimed,
                "what is due has been so since some moment": not ledger.unclaimed
                or record.owing_since > 0,
                "whatever is due can be had": _can_be_had(ledger),
            },
        )

    # A payer's.

    def _check_payer(self) -> None:
        signed = self._parts(payer.SIGNED, 2, payer.CHANNELS)
        tickets = self._parts(payer.TICKETS, 2, payer.CHANNELS)
        records: dict[Address, list[PayerRecord]] = defaultdict(list)
        for row in self._rows[payer.CHANNELS]:
            key, what = row[:2], f"channel {Hash32.of(row[1])} of {to_address(row[0])}"
            record = self._read(
                what,
                partial(payer.to_record, row, signed[key], tickets[key]),
            )
            if record is not None:
                records[to_address(row[0])].append(record)
                self._check_payers_channel(what, record, to_address(row[0]))
        accounts = {
            to_address(row[0]) for table in _BUDGET for row in self._rows[table]
        }
        for account in accounts | records.keys():
            self._check_budget(account, records[account])

    def _check_payers_channel(
        self, what: str, record: PayerRecord, account: Address
    ) -> None:
        ledger = record.ledger
        amounts = list(ledger.signed)
        self._holds(
            what,
            {
                "its id is the hash of its terms": _id_of(record) == record.channel,
                "it is the account's own": record.config.payer == account,
                "amounts were signed once, in order": amounts == sorted(set(amounts)),
                "what is open was signed": {t.cumulative for t in ledger.open}
                <= set(amounts),
            },
        )

    def _check_budget(self, account: Address, records: list[PayerRecord]) -> None:
        what = f"budget of {account}"
        mine = [
            [row for row in self._rows[table] if to_address(row[0]) == account]
            for table in _BUDGET
        ]
        budget = self._read(what, partial(payer.to_budget, *mine))
        if budget is None:
            return
        deposited: dict[str, int] = defaultdict(int)
        for record in records:
            scale = 10 ** (MONEY_DECIMALS - record.decimals)
            deposited[record.host] += record.ledger.balance * scale
        for host, amount in deposited.items():
            gone = sum(s.amount for s in budget.spent if s.host == host)
            sentence = f"what channels with {host} hold was counted as spent"
            self._holds(what, {sentence: amount <= gone})
        self._holds(what, {"signed deposits are held": _deposits_held(budget, records)})


_BUDGET = (payer.SPENT, payer.HOLDS, payer.LAPSES)


def _attempts(row: Row) -> list[SignedCall]:
    """
    Raises:
        ValueError: Not the bytes of transactions.
    """
    [sent], _ = take_over([row], row[3])
    return [read_signed_call(raw) for raw in sent.raws]


def _id_of(record: PayeeRecord | PayerRecord) -> Hash32:
    if isinstance(record.config, ChannelConfig):
        return channel_id(record.config, record.chain)
    return record.config.channel


def _can_be_had(ledger: PayeeChannel) -> bool:
    highest = ledger.held[-1].amount if ledger.held else 0
    return ledger.due <= max(highest, ledger.claimed)


def _deposits_held(budget: Budget, records: list[PayerRecord]) -> bool:
    pending = [r.ledger.deposit for r in records if r.ledger.deposit is not None]
    return all(budget.hold(f"deposit {deposit.salt}") for deposit in pending)
