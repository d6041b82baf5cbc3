"""
Values as columns and back, and which rows a changed sequence needs.

What no database could take is refused here, before a step is shown to anybody: an error
in the writer would take other steps of its group down with it.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, TypeVar

from agentpay.errors import InvariantViolated
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.evm.session_escrow import Escrow, SessionConfig, SessionTerms
from agentpay.records import Config
from agentpay.types import ZERO_ADDRESS, Address, ChainId, Hash32

R = TypeVar("R")

Row = tuple[Any, ...]
"""A row as it was put, whose columns have the types that its table says."""

AMOUNT_BYTES: Final = 32
AMOUNT_MAX: Final = 2 ** (8 * AMOUNT_BYTES) - 1
INTEGER_MAX: Final = 2**63 - 1


def amount(value: int) -> int:
    if not 0 <= value <= AMOUNT_MAX:
        raise InvariantViolated(f"no amount of a token: {value}")
    return value


def integer(value: int) -> int:
    if not -INTEGER_MAX <= value <= INTEGER_MAX:
        raise InvariantViolated(f"no store keeps the number {value}")
    return value


def text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvariantViolated(f"no store keeps the text {value!r}") from error
    return value


def to_address(column: bytes) -> Address:
    return Address("0x" + column.hex())


CONFIG_COLUMNS: Final = (
    "payer bytes, payer_authorizer bytes, receiver bytes, receiver_authorizer bytes,"
    " token bytes, withdraw_delay integer, salt bytes, escrow bytes"
)
"""A session has an escrow contract; its grace period is the contract's, not its own."""
CONFIG_COUNT: Final = 8


def config_columns(config: Config) -> tuple[bytes | int | None, ...]:
    if isinstance(config, SessionConfig):
        terms = config.terms
        return (
            terms.payer.to_bytes(),
            terms.authorized_signer.to_bytes(),
            terms.payee.to_bytes(),
            ZERO_ADDRESS.to_bytes(),
            terms.token.to_bytes(),
            0,
            terms.salt.to_bytes(),
            config.escrow.contract.to_bytes(),
        )
    return (
        config.payer.to_bytes(),
        config.payer_authorizer.to_bytes(),
        config.receiver.to_bytes(),
        config.receiver_authorizer.to_bytes(),
        config.token.to_bytes(),
        config.withdraw_delay,
        config.salt.to_bytes(),
        None,
    )


def to_config(columns: Row, chain: ChainId) -> Config:
    payer, payer_authorizer, receiver, receiver_authorizer, token, *rest = columns
    delay, salt, escrow = rest
    if escrow is not None:
        terms = SessionTerms(
            payer=to_address(payer),
            payee=to_address(receiver),
            token=to_address(token),
            salt=Hash32.of(salt),
            authorized_signer=to_address(payer_authorizer),
        )
        held_by = Escrow(chain=chain, contract=to_address(escrow))
        return SessionConfig(terms=terms, escrow=held_by)
    return ChannelConfig(
        payer=to_address(payer),
        payer_authorizer=to_address(payer_authorizer),
        receiver=to_address(receiver),
        receiver_authorizer=to_address(receiver_authorizer),
        token=to_address(token),
        withdraw_delay=delay,
        salt=Hash32.of(salt),
    )


def changes(
    before: Sequence[R], after: Sequence[R], key: Callable[[R], Hashable]
) -> tuple[list[R], list[R]]:
    """
    Which rows to delete, and then which to put, so that their order stays the same.

    Rows keep their place when put again; new ones come last.
    """
    if before is after:
        return [], []
    removed: list[R] = []
    put: list[R] = []
    left = iter(after)
    new = next(left, None)
    for old in before:
        if new is old:
            new = next(left, None)
        elif new is not None and key(new) == key(old):
            put.append(new)
            new = next(left, None)
        else:
            removed.append(old)
    return removed, put if new is None else [*put, new, *left]
