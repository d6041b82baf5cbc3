"""
Payments for AI agents and for those who serve them, over HTTP 402.

Everything public is here and is loaded when it is first used, so that importing
`agentpay` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpay.agent import Agent
    from agentpay.core.meter import Rate, Rounding, Tariff, Unit
    from agentpay.core.sending import FeePolicy
    from agentpay.errors import (
        AgentPayError,
        AnswerLost,
        ApprovalNeeded,
        BudgetExceeded,
        ChainError,
        ChallengeUsed,
        ConfigurationError,
        HostQuarantined,
        PaymentOutcomeUnknown,
        PaymentRefused,
        PaymentRejected,
        PriceRose,
        ProtocolError,
        StoreError,
    )
    from agentpay.evm.networks import Network
    from agentpay.http.discovery import Discovery
    from agentpay.http.facilitator_client import RemoteFacilitator
    from agentpay.http.paid_request import PaidRequest, RequestMeter
    from agentpay.http.paid_stream import PaidStream
    from agentpay.http.paywall import Paywall
    from agentpay.http.transport import PaymentTransport
    from agentpay.payee.about import About
    from agentpay.payee.answers import AnswerPolicy
    from agentpay.payee.attestor import Attestor
    from agentpay.payee.finality import Finality
    from agentpay.payee.mpp_offers import MppTerms, Share
    from agentpay.payee.payee import Payee
    from agentpay.payee.pricing import Order, Route, Streaming
    from agentpay.payer.policy import Budget, Policy
    from agentpay.payer.receipts import PaidReceipt
    from agentpay.payer.spending import Spending
    from agentpay.signers.smart_wallet import SmartWallet
    from agentpay.signers.wallet import Wallet
    from agentpay.signers.watched import WatchedWallet
    from agentpay.stream_errors import StreamEnded

__version__ = "0.1.0"

_HOMES = {
    "About": "agentpay.payee.about",
    "Agent": "agentpay.agent",
    "AgentPayError": "agentpay.errors",
    "AnswerLost": "agentpay.errors",
    "AnswerPolicy": "agentpay.payee.answers",
    "ApprovalNeeded": "agentpay.errors",
    "Attestor": "agentpay.payee.attestor",
    "Budget": "agentpay.payer.policy",
    "BudgetExceeded": "agentpay.errors",
    "ChainError": "agentpay.errors",
    "ChallengeUsed": "agentpay.errors",
    "ConfigurationError": "agentpay.errors",
    "Discovery": "agentpay.http.discovery",
    "Finality": "agentpay.payee.finality",
    "FeePolicy": "agentpay.core.sending",
    "HostQuarantined": "agentpay.errors",
    "MppTerms": "agentpay.payee.mpp_offers",
    "Network": "agentpay.evm.networks",
    "Order": "agentpay.payee.pricing",
    "PaidReceipt": "agentpay.payer.receipts",
    "PaidRequest": "agentpay.http.paid_request",
    "PaidStream": "agentpay.http.paid_stream",
    "Payee": "agentpay.payee.payee",
    "PaymentOutcomeUnknown": "agentpay.errors",
    "PaymentRefused": "agentpay.errors",
    "PaymentRejected": "agentpay.errors",
    "PaymentTransport": "agentpay.http.transport",
    "Paywall": "agentpay.http.paywall",
    "Policy": "agentpay.payer.policy",
    "PriceRose": "agentpay.errors",
    "ProtocolError": "agentpay.errors",
    "Rate": "agentpay.core.meter",
    "RemoteFacilitator": "agentpay.http.facilitator_client",
    "RequestMeter": "agentpay.http.paid_request",
    "Rounding": "agentpay.core.meter",
    "Route": "agentpay.payee.pricing",
    "Share": "agentpay.payee.mpp_offers",
    "SmartWallet": "agentpay.signers.smart_wallet",
    "Spending": "agentpay.payer.spending",
    "StoreError": "agentpay.errors",
    "StreamEnded": "agentpay.stream_errors",
    "Streaming": "agentpay.payee.pricing",
    "Tariff": "agentpay.core.meter",
    "Unit": "agentpay.core.meter",
    "Wallet": "agentpay.signers.wallet",
    "WatchedWallet": "agentpay.signers.watched",
}

__all__ = [
    "About",
    "Agent",
    "AgentPayError",
    "AnswerLost",
    "AnswerPolicy",
    "ApprovalNeeded",
    "Attestor",
    "Budget",
    "BudgetExceeded",
    "ChainError",
    "ChallengeUsed",
    "ConfigurationError",
    "Discovery",
    "FeePolicy",
    "Finality",
    "HostQuarantined",
    "MppTerms",
    "Network",
    "Order",
    "PaidReceipt",
    "PaidRequest",
    "PaidStream",
    "Payee",
    "PaymentOutcomeUnknown",
    "PaymentRefused",
    "PaymentRejected",
    "PaymentTransport",
    "Paywall",
    "Policy",
    "PriceRose",
    "ProtocolError",
    "Rate",
    "RemoteFacilitator",
    "RequestMeter",
    "Rounding",
    "Route",
    "Share",
    "SmartWallet",
    "Spending",
    "StoreError",
    "StreamEnded",
    "Streaming",
    "Tariff",
    "Unit",
    "Wallet",
    "WatchedWallet",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'agentpay' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
