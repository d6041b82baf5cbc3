"""
What gas costs now, and what a call will be offered with: read in one round trip.
"""

import logging
import secrets
from dataclasses import dataclass
from typing import Any, Final

from agentpay.chain.decoding import quantity
from agentpay.chain.json_rpc import NodeRefused, Rpc
from agentpay.chain.refusals import is_poor, wants_more_gas
from agentpay.chain.rpc import RpcChain
from agentpay.core import sending as rules
from agentpay.core.sending import FeePolicy, Fees, Market
from agentpay.errors import (
    ChainError,
    ChainUnreachable,
    GasMissing,
    GasTooExpensive,
    TransactionFailed,
)
from agentpay.evm.calls import Call
from agentpay.types import Address

log = logging.getLogger(__name__)

_LOW_TRANSACTIONS: Final = 10
"""Fewer than so many more can be paid for: somebody should know."""
_PRICE: Final = (
    ("eth_getBlockByNumber", ("latest", False)),
    ("eth_maxPriorityFeePerGas", ()),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The price of gas at the last block."""

    market: Market
    block: int
    chain_time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a call is offered to the chain at first."""

    gas: int
    fees: Fees
    block: int


async def read_price(rpc: Rpc) -> Price:
    """
    Raises:
        ChainUnreachable: It could not be read.
    """
    answers = await rpc.batch(_PRICE)
    refused = next((a for a in answers if isinstance(a, NodeRefused)), None)
    if refused is not None:
        raise ChainUnreachable(f"{refused}: try again") from refused
    return _price_of(rpc, *answers)


def _price_of(rpc: Rpc, block: Any, tip: Any) -> Price:
    with rpc.reading("the price of gas"):
        base_fee = quantity(block["baseFeePerGas"])
        return Price(
            market=Market(base_fee=base_fee, tip=quantity(tip)),
            block=quantity(block["number"]),
            chain_time=quantity(block["timestamp"]),
        )


class Pricing:
    """What calls of one account need and cost."""

    def __init__(self, chain: RpcChain, account: Address, policy: FeePolicy) -> None:
        self._chain = chain
        self._account = account
        self._policy = policy
        self._mark = secrets.randbelow(rules.MARKS)
        self._turn = 0
        self._low = False

    async def terms(self, call: Call, cap: int, *, capped: bool) -> Terms:
        """
        Simulate a call for the gas that it needs.

        Raises:
            TransactionFailed: It would revert, or use more than `cap`.
            GasMissing, GasTooExpensive, ChainUnreachable: It cannot be sent now.
        """
        # On "pending", the default of some nodes, a call fails because it is under way:
        # sent by a process that died, or for a caller that did not wait.
        fields = call_fields(self._account, call, cap if capped else None)
        rpc = self._chain.rpc
        answers: list[Any] = []
        for answer in await rpc.batch(
            [
                ("eth_estimateGas", (fields, "latest")),
                ("eth_getBalance", (self._account, "latest")),
                *_PRICE,
            ]
        ):
            if isinstance(answer, NodeRefused):
                if capped and wants_more_gas(answer, cap):
                    raise too_much_gas(call, cap) from answer
                raise self._refused(answer, call) from answer
            answers.append(answer)
        with rpc.reading("gas and a balance"):
            gas, balance = quantity(answers[0]), quantity(answers[1])
        if gas > cap:
            raise too_much_gas(call, cap)
        return self._offer(call, _price_of(rpc, *answers[2:]), gas, cap, balance)

    def _offer(
        self, call: Call, price: Price, gas: int, cap: int, balance: int
    ) -> Terms:
        self._turn += 1
        gas = rules.marked_gas(gas, mark=self._mark, turn=self._turn, most=cap)
        fees = rules.first_fees(price.market, gas=gas, policy=self._policy)
        if fees is None:
            raise GasTooExpensive(
                f"{call.what} was not sent: gas costs {price.market.base_fee} wei each,"
                f" and the fee policy allows {self._policy.ceiling(gas)};"
                " wait, or allow more"
            )
        self._watch_balance(balance, gas * (price.market.base_fee + price.market.tip))
        return Terms(gas=gas, fees=fees, block=price.block)

    def _watch_balance(self, balance: int, cost: int) -> None:
        """Say once that it runs low, before calls are refused for it."""
        low = balance < _LOW_TRANSACTIONS * cost
        if low and not self._low:
            log.warning(
                "%s has %d wei left on chain %d, gas for %d more transactions:"
                " send it some",
                self._account,
                balance,
                self._chain.chain_id,
                balance // cost,
            )
        self._low = low

    def _refused(self, refusal: NodeRefused, call: Call) -> ChainError:
        if is_poor(refusal):
            return self.poor(call)
        return self._chain.failure(refusal, call.what)

    def poor(self, call: Call) -> GasMissing:
        """What to raise where the account cannot pay."""
        return GasMissing(
            f"{call.what} was not sent: {self._account} has too little of chain"
            f" {self._chain.chain_id}'s coin to pay for gas; send it some"
        )


def call_fields(account: Address, call: Call, gas: int | None = None) -> dict[str, str]:
    """A call as nodes take it to simulate."""
    data = "0x" + call.data.hex()
    fields = {"from": account, "to": call.to, "data": data}
    if call.value:
        fields["value"] = hex(call.value)
    if gas is not None:
        fields["gas"] = hex(gas)
    return fields


def too_much_gas(call: Call, cap: int) -> TransactionFailed:
    """What to raise where a call needs more gas than it may use."""
    reason = f"it needs more than the {cap} gas that it may use"
    return TransactionFailed(call.what, reason=reason)
