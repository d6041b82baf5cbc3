"""What sends for a payee by its own wallet, which pays the gas of all of it."""

from collections.abc import Callable

from agentpay.chain.relay import TransactionRelay
from agentpay.chain.rpc import RpcChain
from agentpay.facilitator.batches import BatchingFacilitator, BatchPolicy
from agentpay.facilitator.deposit_gas import DepositGas
from agentpay.facilitator.embedded import Facilitator
from agentpay.facilitator.sponsor import Sponsor, SponsorLimits
from agentpay.payee.offers import PayeeSettings
from agentpay.sending_ports import Sender

APPROVALS_PER_HOUR = 100
"""Of payers whose gas we pay: what strangers can make us spend is bounded."""


def own_facilitator(
    settings: PayeeSettings,
    *,
    chain: RpcChain,
    sender: Sender,
    sponsor_wei: int,
    batch_seconds: float,
    deposits: DepositGas,
    clock: Callable[[], float],
) -> Facilitator:
    """
    Pays `sponsor_wei` for an approval of Permit2, if above 0, and sends transfers
    together where they may wait `batch_seconds` for others.
    """
    sponsor = None
    if sponsor_wei:
        hour = APPROVALS_PER_HOUR * sponsor_wei
        limits = SponsorLimits(wei_each=sponsor_wei, wei_per_hour=hour)
        relay = TransactionRelay(chain)
        sponsor = Sponsor(chain=chain, relay=relay, limits=limits, clock=clock)
    if batch_seconds:
        return BatchingFacilitator(
            chain=chain,
            senders=[sender],
            policy=BatchPolicy(seconds=batch_seconds),
            wallet_factories=settings.wallet_factories,
            sponsor=sponsor,
            deposits=deposits,
        )
    return Facilitator(
        chain=chain,
        senders=[sender],
        wallet_factories=settings.wallet_factories,
        sponsor=sponsor,
        deposits=deposits,
    )
