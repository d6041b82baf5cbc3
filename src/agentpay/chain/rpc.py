"""
Reads a chain through JSON-RPC endpoints: the adapter behind `ports.Chain`.

It signs and sends nothing. web3 is loaded at the first call, not by importing this.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from agentpay.chain.decoding import block_of, log_of, quantity, raw_bytes, receipt_of
from agentpay.chain.endpoints import Endpoints, check_all, open_endpoints
from agentpay.chain.height import TURNED_BACK_SECONDS, Height
from agentpay.chain.json_rpc import BATCH_MAX, NodeRefused, Rpc
from agentpay.chain.refusals import is_revert
from agentpay.chain.reverts import revert_reason
from agentpay.chain.told import Tell
from agentpay.errors import ChainError, ChainUnreachable, TransactionFailed
from agentpay.evm.calls import Block, Call, Log, Receipt, Standing
from agentpay.evm.test_keys import LOCAL_CHAINS
from agentpay.types import Address, ChainId, Hash32

_WITHOUT_BODIES = False
_PAUSES = (0.05, 0.2, 0.5)
"""Before a node is asked again for a block that it has not got."""
_CALLS_MAX = BATCH_MAX - 1
"""Calls in one batch: it also asks for the block number."""


class RpcChain:
    """One EVM chain behind HTTP endpoints. Implements `ports.Chain`."""

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        chain_id: ChainId,
        timeout_seconds: float = 10,
        error_names: Mapping[bytes, str] | None = None,
        turned_back_seconds: float | None = None,
        failed: Tell | None = None,
    ) -> None:
        """
        `url` is one endpoint, or several (also in one text, with commas between), of
        which the first that is well is used. `error_names` maps the selectors of custom
        errors to names, for reasons. State is not read from before what was seen,
        unless for `turned_back_seconds` nobody had anything else: a minute (ten, where
        more is missing than a reorg takes), and no time at all for the one node of a
        local chain, which tests turn back. `failed` is told of what endpoints fail at.

        Raises:
            ConfigurationError: Not http or https URLs.
        """
        self._endpoints = open_endpoints(
            url, chain=chain_id, timeout_seconds=timeout_seconds, failed=failed
        )
        only = self._endpoints[0].rpc if len(self._endpoints) == 1 else None
        if turned_back_seconds is None:
            one_node = only is not None and chain_id in LOCAL_CHAINS
            turned_back_seconds = 0 if one_node else TURNED_BACK_SECONDS
        # One URL may be many nodes, and is asked by itself; of several, `Endpoints` has
        # seen to it.
        self._height = Height(turned_back_seconds=turned_back_seconds)
        self.rpc: Rpc = only or Endpoints(self._endpoints, height=self._height)
        self._chain_id = chain_id
        self._error_names = error_names

    @property
    def chain_id(self) -> ChainId:
        """The chain this is expected to be."""
        return self._chain_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self.rpc.aclose()

    async def check(self) -> None:
        """See `ports.Chain.check`."""
        await check_all(self._endpoints)

    async def head(self) -> Block:
        """See `ports.Chain.head`."""
        return await self._height.ask(self._read_head)

    async def block(self, number: int) -> Block:
        """See `ports.Chain.block`; a node that has not got it is asked again."""
        asked = hex(number), _WITHOUT_BODIES
        for pause in (*_PAUSES, None):
            answer = await self._ask("eth_getBlockByNumber", *asked)
            if answer is not None:
                with self.rpc.reading("a block"):
                    return block_of(answer)
            if pause is not None:
                await asyncio.sleep(pause)
        raise ChainUnreachable(
            f"{self.rpc.where} has no block {number}: use another endpoint"
        )

    async def read(
        self, calls: Sequence[Call], *, block: int | None = None
    ) -> list[bytes]:
        """See `ports.Chain.read`; more than 99 calls take one trip per 99."""
        answers: list[bytes] = []
        for start in range(0, len(calls), _CALLS_MAX):
            part = calls[start : start + _CALLS_MAX]
            if block is not None:
                answers += self._decoded(part, await self._batch(part, block))
                continue
            block, raw = await self._height.ask(partial(self._read_at_head, part))
            answers += self._decoded(part, raw)
        return answers

    async def code(self, address: Address) -> bytes:
        """See `ports.Chain.code`."""
        answer = await self._ask("eth_getCode", address, "latest")
        with self.rpc.reading("eth_getCode"):
            return raw_bytes(answer)

    async def standing(self, account: Address) -> Standing:
        """See `ports.Chain.standing`."""
        answers: list[Any] = []
        for answer in await self.rpc.batch(
            [
                ("eth_getTransactionCount", (account, "latest")),
                ("eth_getBalance", (account, "latest")),
                ("eth_getBlockByNumber", ("latest", _WITHOUT_BODIES)),
                ("eth_maxPriorityFeePerGas", ()),
            ]
        ):
            if isinstance(answer, NodeRefused):
                raise self.failure(answer, f"read account {account}") from answer
            answers.append(answer)
        with self.rpc.reading("an account and fees"):
            return Standing(
                nonce=quantity(answers[0]),
                balance=quantity(answers[1]),
                base_fee=quantity(answers[2]["baseFeePerGas"]),
                tip=quantity(answers[3]),
            )

    async def logs(
        self,
        *,
        address: Address,
        topics: Sequence[Hash32 | None],
        first_block: int,
        last_block: int,
    ) -> list[Log]:
        """See `ports.Chain.logs`."""
        wanted = {
            "address": address,
            "topics": list(topics),
            "fromBlock": hex(first_block),
            "toBlock": hex(last_block),
        }
        reading = partial(self._read_logs, wanted, last_block)
        answer = await self._height.ask(reading)
        with self.rpc.reading("eth_getLogs"):
            found = [log_of(fields) for fields in answer if not fields.get("removed")]
        return sorted(found, key=lambda log: (log.block, log.index))

    async def input(self, transaction: Hash32) -> bytes:
        """See `ports.Chain.input`."""
        answer = await self._ask("eth_getTransactionByHash", transaction)
        if answer is None:
            return b""
        with self.rpc.reading("eth_getTransactionByHash"):
            return raw_bytes(answer["input"])

    async def receipt(self, transaction: Hash32) -> Receipt | None:
        """See `ports.Chain.receipt`."""
        answer = await self._ask("eth_getTransactionReceipt", transaction)
        if answer is None:
            return None
        with self.rpc.reading("eth_getTransactionReceipt"):
            receipt = receipt_of(answer)
            succeeded = quantity(answer["status"]) == 1
        if not succeeded:
            raise TransactionFailed(
                "the transaction",
                reason="it was mined and reverted",
                transaction=transaction,
            )
        return receipt

    def failure(self, refusal: NodeRefused, what: str) -> ChainError:
        """What a refusal of a call means: the call reverts, or the node fails."""
        if not is_revert(refusal):
            return ChainUnreachable(f"{refusal}: try again, or use another endpoint")
        if refusal.data:
            reason = revert_reason(refusal.data, self._error_names)
        else:
            reason = refusal.message
        return TransactionFailed(what, reason=reason)

    async def _ask(self, method: str, *params: object) -> Any:
        try:
            return await self.rpc.call(method, *params)
        except NodeRefused as refusal:
            raise self.failure(refusal, method) from refusal

    async def _read_head(self) -> Block:
        before = self._height.seen
        answer = await self._ask("eth_getBlockByNumber", "latest", _WITHOUT_BODIES)
        with self.rpc.reading("the latest block"):
            block = block_of(answer)
        self._height.see(block.number, before=before, where=self.rpc.where)
        return block

    async def _read_logs(self, wanted: dict[str, Any], last_block: int) -> Any:
        """A node leaves out what it has not got yet, and says nothing of that."""
        before = min(last_block, self._height.seen)
        number, found = await self.rpc.batch(
            [("eth_blockNumber", ()), ("eth_getLogs", (wanted,))]
        )
        for answer in (number, found):
            if isinstance(answer, NodeRefused):
                raise self.failure(answer, "eth_getLogs") from answer
        head = quantity_or_unreachable(self.rpc, number)
        self._height.see(head, before=before, where=self.rpc.where)
        return found

    async def _read_at_head(
        self, calls: Sequence[Call]
    ) -> tuple[int, list[Any | NodeRefused]]:
        """
        Ask at the last block we saw, and in the same trip whether it is still the last.

        "latest" would not do: a block may come between two calls of one batch.
        """
        asked = self._height.seen
        number, *answers = await self._batch(calls, asked, "eth_blockNumber")
        if isinstance(number, NodeRefused):
            raise self.failure(number, "eth_blockNumber") from number
        head = quantity_or_unreachable(self.rpc, number)
        self._height.see(head, before=asked, where=self.rpc.where)
        if head == asked:
            return head, answers
        # One more trip, at a block that is known now; it need not stay the last.
        return head, await self._batch(calls, head)

    async def _batch(
        self, calls: Sequence[Call], block: int, *before: str
    ) -> list[Any | NodeRefused]:
        requests: list[tuple[str, Sequence[object]]] = [(name, ()) for name in before]
        for call in calls:
            fields = {"to": call.to, "data": "0x" + call.data.hex()}
            requests.append(("eth_call", (fields, hex(block))))
        return await self.rpc.batch(requests)

    def _decoded(
        self, calls: Sequence[Call], answers: Sequence[Any | NodeRefused]
    ) -> list[bytes]:
        values: list[bytes] = []
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, NodeRefused):
                raise self.failure(answer, call.what) from answer
            with self.rpc.reading("eth_call"):
                values.append(raw_bytes(answer))
        return values


def quantity_or_unreachable(rpc: Rpc, answer: object) -> int:
    """
    Raises:
        ChainUnreachable: Not a number in the form that nodes write.
    """
    with rpc.reading("a number"):
        return quantity(answer)
