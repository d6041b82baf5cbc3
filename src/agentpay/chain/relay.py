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
from agentpay.evm.calls import Receipt
from agentpay.evm.eip1559 import SignedCall

_POLL_SECONDS: Final = 0.1
_NOT_TAKEN: Final = frozenset(
    {Refusal.FINAL, Refusal.NONCE_AHEAD, Refusal.NONCE_PENDING}
)
"""Of others, only its receipt tells whether it was mined before, or another was."""


class TransactionRelay:
    """Sends payers' own transactions to one chain. Implements `ports.Relay`."""

    def __init__(
        self,
        chain: RpcChain,
        *,
        mined_within_seconds: float = 30,
        replaced_seconds: float = 3,
    ) -> None:
        """
        `replaced_seconds` is for how long no node may know a receipt of a transaction
        whose nonce is used, until another one is taken to have used it.
        """
        self._chain = chain
        self._mined_within_seconds = mined_within_seconds
        self._replaced_seconds = replaced_seconds

    async def simulate(self, signed: SignedCall) -> None:
        """See `ports.Relay.simulate`."""
        call = signed.call
        fields = {
            "from": signed.owner,
            "to": call.to,
            "data": "0x" + call.data.hex(),
            "gas": hex(call.gas),
        }
        try:
            await self._chain.rpc.call("eth_call", fields, "latest")
        except NodeRefused as refusal:
            if wants_more_gas(refusal, call.gas):
                reason = f"it needs more than its {call.gas} gas"
                raise TransactionFailed(_what(signed), reason=reason) from refusal
            raise self._chain.failure(refusal, _what(signed)) from refusal

    async def send(self, signed: SignedCall) -> Receipt:
        """See `ports.Relay.send`."""
        try:
            raw = "0x" + signed.raw.hex()
            await self._chain.rpc.call("eth_sendRawTransaction", raw)
        except NodeRefused as refusal:
            doubtful = refusal_of(refusal) not in _NOT_TAKEN
            if not doubtful and not await self._chain.input(signed.hash):
                reason = refusal.message
                raise TransactionFailed(_what(signed), reason=reason) from refusal
        return await self._wait(signed)

    async def _wait(self, signed: SignedCall) -> Receipt:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._mined_within_seconds
        missing_since: float | None = None
        while (receipt := await self._chain.receipt(signed.hash)) is None:
            if missing_since is None:
                if await self._is_used(signed):
                    missing_since = loop.time()
            elif loop.time() - missing_since > self._replaced_seconds:
                reason = "another transaction of its sender has used its nonce"
                raise TransactionFailed(_what(signed), reason=reason)
            if loop.time() > deadline:
                raise TransactionOutcomeUnknown(_what(signed), transaction=signed.hash)
            await asyncio.sleep(_POLL_SECONDS)
        return receipt

    async def _is_used(self, signed: SignedCall) -> bool:
        standing = await self._chain.standing(signed.owner)
        return standing.nonce > signed.call.nonce


def _what(signed: SignedCall) -> str:
    return f"transaction {signed.call.nonce} of {signed.owner}"
