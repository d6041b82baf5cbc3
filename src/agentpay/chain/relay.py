"""
Sends transactions that others signed whole: the adapter behind `ports.Relay`.

It signs nothing, and what it sends is paid for by whoever signed it.
"""

import asyncio
from typing import Final

from agentpay.chain.json_rpc import NodeRefused
from agentpay.chain.refusals import Refusal, refusal_of, wants_more_gas
from agentpay.chain.rpc import RpcChain
from agentpay.errors import TransactionFailed, TransactionOutcomeUnknown
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import approve_call
from agentpay.evm.approval import SignedApproval
from agentpay.evm.calls import Receipt

_POLL_SECONDS: Final = 0.1


class TransactionRelay:
    """Sends payers' approvals to one chain. Implements `ports.Relay`."""

    def __init__(self, chain: RpcChain, *, mined_within_seconds: float = 30) -> None:
        self._chain = chain
        self._mined_within_seconds = mined_within_seconds

    async def simulate(self, signed: SignedApproval) -> None:
        """See `ports.Relay.simulate`."""
        approval = signed.approval
        call = approve_call(approval.token, spender=PERMIT2, amount=approval.amount)
        fields = {
            "from": signed.owner,
            "to": call.to,
            "data": "0x" + call.data.hex(),
            "gas": hex(approval.gas),
        }
        try:
            await self._chain.rpc.call("eth_call", fields, "latest")
        except NodeRefused as refusal:
            if wants_more_gas(refusal, approval.gas):
                reason = f"it needs more than its {approval.gas} gas"
                raise TransactionFailed(call.what, reason=reason) from refusal
            raise self._chain.failure(refusal, call.what) from refusal

    async def send(self, signed: SignedApproval) -> Receipt:
        """See `ports.Relay.send`."""
        what = f"approval of {signed.owner}"
        try:
            raw = "0x" + signed.raw.hex()
            await self._chain.rpc.call("eth_sendRawTransaction", raw)
        except NodeRefused as refusal:
            known = refusal_of(refusal) is Refusal.KNOWN
            if not known and not await self._chain.input(signed.hash):
                raise TransactionFailed(what, reason=refusal.message) from refusal
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._mined_within_seconds
        while (receipt := await self._chain.receipt(signed.hash)) is None:
            if loop.time() > deadline:
                raise TransactionOutcomeUnknown(what, transaction=signed.hash)
            await asyncio.sleep(_POLL_SECONDS)
        return receipt
