"""
What a payee's chain must have for what it offers, looked at when it starts.

A call to an address without code succeeds and moves nothing, so an offer that needs a
missing contract would be served for nothing.
"""

import logging

from agentpay.chain.rpc import RpcChain
from agentpay.errors import UnsuitableToken
from agentpay.evm.addresses import MULTICALL3
from agentpay.facilitator.contracts import Contracts, contracts_of
from agentpay.payee.offers import PayeeSettings
from agentpay.wire.x402 import EXACT, PERMIT2, UPTO

_log = logging.getLogger(__name__)


async def check_contracts(
    chain: RpcChain, settings: PayeeSettings, *, batches: bool
) -> None:
    """
    Raises:
        UnsuitableToken: What was asked for needs a contract that is not there.
    """
    contracts = Contracts(chain)
    together = settings.wallet_factories or batches
    if together and await contracts.first_missing((MULTICALL3,)):
        raise UnsuitableToken(
            f"there is no Multicall3 on chain {chain.chain_id}, which wallet_factories"
            " and batch_seconds need: leave them out"
        )
    if PERMIT2 in settings.transfer_methods:
        missing = await contracts.first_missing(contracts_of(EXACT))
        if missing is not None:
            raise UnsuitableToken(
                f"there is no contract at {missing} on chain {chain.chain_id}, which"
                " permit2 among transfer_methods needs: leave that out"
            )


async def can_sell_by_upto(chain: RpcChain) -> bool:
    """Whether `upto` can be paid here: where it cannot, it is not offered."""
    missing = await Contracts(chain).first_missing(contracts_of(UPTO))
    if missing is not None:
        _log.debug("no upto on chain %d: nothing is at %s", chain.chain_id, missing)
    return missing is None
