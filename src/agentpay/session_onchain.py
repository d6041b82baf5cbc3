"""
What a chain says of MPP's sessions and of the contract that holds them.

As in `onchain`: what makes no sense is a `ChainUnreachable`, never a fact.
"""

from agentpay.errors import ChainUnreachable, TransactionFailed, UnsuitableEscrow
from agentpay.evm import session_escrow as session
from agentpay.evm import session_escrow_abi as escrows
from agentpay.evm.addresses import SESSION_ESCROW
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.calls import Receipt
from agentpay.evm.session_deposit import (
    SessionDeposit,
    TokenSessionDeposit,
    deposited_in,
)
from agentpay.evm.session_escrow import GRACE_SECONDS_MIN, Escrow, SessionConfig
from agentpay.evm.session_escrow_abi import SessionOnChain
from agentpay.evm.session_escrow_events import (
    CHANNEL_CLOSED,
    CHANNEL_OPENED,
    TOP_UP,
)
from agentpay.onchain import read_words
from agentpay.ports import Chain
from agentpay.records import Settled
from agentpay.session_ports import SessionClosed


async def check_escrow(chain: Chain, escrow: Escrow) -> int:
    """
    How long a payee can still settle after a payer asked an escrow to close.

    At the address of ours must be ours. Another is used at the word of whoever
    configured it, but for what draft-evm-session-00 has servers check ("Forced Close").

    Raises:
        UnsuitableEscrow: It is not there, is another, or has too short a grace period.
        ChainUnreachable: It could not be read.
    """
    name = f"session escrow {escrow.contract} on chain {escrow.chain}"
    code = await chain.code(escrow.contract)
    if not code:
        raise UnsuitableEscrow(f"{name}: there is no contract at this address")
    ours = load_artifact("EVMPaymentChannel").runtime
    if escrow.contract == SESSION_ESCROW and code != ours:
        raise UnsuitableEscrow(f"{name}: another contract is at the address of ours")
    calls = [escrows.grace_seconds_call(escrow), escrows.separator_call(escrow)]
    try:
        grace, separator = await read_words(chain, calls)
    except TransactionFailed as error:
        raise UnsuitableEscrow(f"{name}: it holds no sessions") from error
    if separator != int.from_bytes(session.separator(escrow), "big"):
        raise UnsuitableEscrow(f"{name}: vouchers are signed for another domain")
    if grace < GRACE_SECONDS_MIN:
        raise UnsuitableEscrow(
            f"{name}: a payee has {grace} s to settle after a payer leaves, and needs"
            f" {GRACE_SECONDS_MIN} s at least"
        )
    return grace


async def read_session(
    chain: Chain, config: SessionConfig, *, block: int | None = None
) -> SessionOnChain:
    """
    What its contract says of a session, which perhaps was never opened.

    Raises:
        ChainUnreachable: It could not be read, or the answer makes no sense.
    """
    call = escrows.channel_state_call(config.channel, config.escrow)
    (answer,) = await chain.read([call], block=block)
    try:
        state = escrows.decode_channel_state(answer)
    except ValueError as error:
        raise ChainUnreachable(f"the endpoint answers nonsense: {error}") from error
    terms = config.terms
    found = (state.payer, state.payee, state.token, state.authorized_signer)
    said = (terms.payer, terms.payee, terms.token, terms.authorized_signer)
    if state.exists and found != said:  # its id is the hash of them
        raise ChainUnreachable(
            f"the endpoint answers nonsense: session {config.channel} on other terms"
        )
    return state


async def find_session_deposit(
    chain: Chain, deposit: SessionDeposit, *, blocks: int = 1000
) -> Settled | None:
    """
    The transaction that made this very deposit, and what it put in.

    A session is opened once. So one that opens it is done whoever did: the payer too
    may have, with another amount.
    """
    config, head = deposit.config, await chain.head()
    logs = await chain.logs(
        address=config.escrow.contract,
        topics=[CHANNEL_OPENED if deposit.opens else TOP_UP, config.channel],
        first_block=max(0, head.number - blocks),
        last_block=head.number,
    )
    for log in reversed(logs):
        for amount in deposited_in(config, [log], opens=deposit.opens):
            made = Settled(transaction=log.transaction, amount=amount)
            if deposit.opens:
                return made
            receipt = await chain.receipt(log.transaction)
            if receipt is None or amount != deposit.amount:
                continue
            if await _is_made_by(chain, deposit, receipt):
                return made
    return None


async def find_session_closed(
    chain: Chain, config: SessionConfig, *, blocks: int = 1000
) -> SessionClosed | None:
    """What a session came to, whoever closed it; None while it is open."""
    state = await read_session(chain, config)
    if not state.finalized:
        return None
    head = await chain.head()
    logs = await chain.logs(
        address=config.escrow.contract,
        topics=[CHANNEL_CLOSED, config.channel],
        first_block=max(0, head.number - blocks),
        last_block=head.number,
    )
    return SessionClosed(
        transaction=logs[-1].transaction if logs else "",
        settled=state.settled,
        refunded=state.deposit - state.settled,
    )


async def _is_made_by(chain: Chain, deposit: SessionDeposit, receipt: Receipt) -> bool:
    """Not by one like it: its nonce may have been used up for something else."""
    if isinstance(deposit, TokenSessionDeposit):
        return deposit.is_shown_by(receipt.logs)
    # Permit2 names no nonce in its events: only the very call is a proof.
    call = deposit.call()
    sent = await chain.input(receipt.transaction)
    return receipt.to == call.to and sent == call.data
