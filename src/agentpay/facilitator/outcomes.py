"""
What transactions really did, read from their events and never from their status alone:
a token may return false and still succeed.
"""

import logging
from collections.abc import Sequence

from agentpay.errors import TransactionFailed
from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm.batch_settlement import VoucherClaim, channel_id
from agentpay.evm.calls import Receipt
from agentpay.evm.deposit import Deposit
from agentpay.evm.transfer import Transfer, own_logs
from agentpay.ports import Chain
from agentpay.records import Settled

_log = logging.getLogger(__name__)


def transfer_result(transfer: Transfer, receipt: Receipt) -> Settled:
    """
    What a transaction that should have used a transfer really moved.

    Raises:
        TransactionFailed: Nothing that its payer signed for.
    """
    if not (moved := transfer.moved(own_logs(transfer, receipt.logs))):
        raise TransactionFailed(
            f"transfer from {transfer.payer}",
            reason="it left no matching Transfer event",
            transaction=receipt.transaction,
        )
    _log.info(
        "settled %d of %s from %s to %s in %s",
        moved,
        transfer.asset.address,
        transfer.payer,
        transfer.to,
        receipt.transaction,
    )
    return Settled(transaction=receipt.transaction, amount=moved)


def deposit_result(deposit: Deposit, receipt: Receipt) -> Settled:
    """
    What a transaction that should have made a deposit really put into its channel.

    Raises:
        TransactionFailed: Not what its payer signed for.
    """
    channel = channel_id(deposit.config, deposit.asset.chain)
    arrived = channels.amount_in(receipt.logs, channels.DEPOSITED, channel)
    if arrived is None or arrived != deposit.amount:
        raise TransactionFailed(
            f"deposit by {deposit.config.payer}",
            reason="it left no matching Deposited event",
            transaction=receipt.transaction,
        )
    _log.info("deposited %d in channel %s", arrived, channel)
    return Settled(transaction=receipt.transaction, amount=arrived)


def claimed_in(claims: Sequence[VoucherClaim], receipt: Receipt, chain: Chain) -> int:
    """What a claim added to what was claimed before, by its events."""
    ids = {channel_id(claim.config, chain.chain_id) for claim in claims}
    amounts = (
        channels.amount_in(receipt.logs, channels.CLAIMED, channel) for channel in ids
    )
    return sum(amount or 0 for amount in amounts)
