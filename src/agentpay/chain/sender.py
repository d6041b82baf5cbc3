"""
Sends transactions from one gas-paying key: the adapter behind `ports.Sender`.

A nonce is taken last, when everything else about the transaction is known, and is never
lost: it is given back when the transaction surely was not taken, and otherwise the same
bytes are sent until they, or another transaction with that nonce, are mined. So no
fault of an endpoint leaves a gap that would hold up all later transactions.
"""

import asyncio
import logging
import secrets
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from agentpay.chain.decoding import quantity, receipt_of
from agentpay.chain.in_flight import Flight, InFlight, SignedTransaction
from agentpay.chain.json_rpc import NodeRefused, RequestNotSent
from agentpay.chain.refusals import Refusal, refusal_of, wants_more_gas
from agentpay.chain.rpc import RpcChain, quantity_or_unreachable
from agentpay.errors import (
    ChainError,
    ChainUnreachable,
    ConfigurationError,
    GasMissing,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.calls import Call, Receipt
from agentpay.evm.test_keys import refuse_test_key
from agentpay.types import Address, Hash32

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

log = logging.getLogger(__name__)

GAS_MAX: Final = 2**24
"""The most gas that a transaction may ask for (EIP-7825)."""

_NONCE_PAUSE_SECONDS = 0.002
_NOT_OURS = frozenset({Refusal.NONCE_AHEAD, Refusal.NONCE_PENDING})
"""Refusals that a node cannot give to a transaction which it has."""
_GAS_SALT = 2**15


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    gas: int
    tip: int
    fee_max: int


class TransactionSender:
    """One key that sends transactions. Implements `ports.Sender`."""

    def __init__(
        self, chain: RpcChain, *, key: bytes | str, mined_within_seconds: float = 60
    ) -> None:
        """
        Several senders may share a key, also in several processes.

        Raises:
            ConfigurationError: `key` is not a private key.
            UnsafeKey: A publicly known test key, and the chain is not local.
        """
        self._account = _account_of(key)
        self._address = Address(str(self._account.address))
        refuse_test_key(self._address, chain.chain_id)
        self._chain = chain
        self._rpc = chain.rpc
        self._mined_within_seconds = mined_within_seconds
        self._in_flight = InFlight(chain.rpc, self._address)
        self._nonce_lock = asyncio.Lock()
        self._next_nonce = 0

    @property
    def address(self) -> Address:
        """The account that pays the gas."""
        return self._address

    def __repr__(self) -> str:
        return f"TransactionSender({self._address}, chain {self._chain.chain_id})"

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
        """Stop following what is in flight; the chain stays open."""
        await self._in_flight.aclose()

    async def simulate(self, call: Call, *, gas_max: int | None = None) -> None:
        """See `ports.Sender.simulate`."""
        try:
            await self._rpc.call("eth_call", self._fields(call, gas_max), "latest")
        except NodeRefused as refusal:
            if gas_max is not None and wants_more_gas(refusal, gas_max):
                raise _too_much_gas(call, gas_max) from refusal
            raise self._chain.failure(refusal, call.what) from refusal

    async def send(self, call: Call, *, gas_max: int | None = None) -> Receipt:
        """See `ports.Sender.send`."""
        cap = GAS_MAX if gas_max is None else min(gas_max, GAS_MAX)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._mined_within_seconds
        while True:
            terms = await self._terms(call, cap, capped=gas_max is not None)
            flight = await self._launch(call, terms, deadline)
            receipt = await self._wait(flight, call, deadline)
            if receipt is not None:
                return await self._judge(receipt, call, flight.signed.hash)
            # Another sender's transaction has this nonce, so ours can never be mined.
            # The new simulation says whether the call still makes sense.
            log.debug("%s: transaction %s was replaced", call.what, flight.signed.hash)

    async def _terms(self, call: Call, cap: int, *, capped: bool) -> _Terms:
        # On "pending", the default of some nodes, a call fails because it is under way:
        # sent by a process that died, or for a caller that did not wait.
        answers: list[Any] = []
        fields = self._fields(call, cap if capped else None)
        for answer in await self._rpc.batch(
            [
                ("eth_estimateGas", (fields, "latest")),
                ("eth_getBlockByNumber", ("latest", False)),
                ("eth_maxPriorityFeePerGas", ()),
            ]
        ):
            if isinstance(answer, NodeRefused):
                if capped and wants_more_gas(answer, cap):
                    raise _too_much_gas(call, cap) from answer
                raise self._refused(answer, call) from answer
            answers.append(answer)
        with self._rpc.reading("gas and fees"):
            gas = quantity(answers[0])
            base_fee = quantity(answers[1]["baseFeePerGas"])
            priority = quantity(answers[2])
        if gas > cap:
            raise _too_much_gas(call, cap)
        # Two senders of one key must not make the same bytes of two calls: "already
        # known" has to mean our own transaction. Gas that is not used costs nothing,
        # whereas a difference in fees would let one replace the other.
        gas = gas + gas // 4 + secrets.randbelow(_GAS_SALT)
        return _Terms(gas=min(gas, cap), tip=priority, fee_max=2 * base_fee + priority)

    async def _launch(self, call: Call, terms: _Terms, deadline: float) -> Flight:
        loop = asyncio.get_running_loop()
        async with self._nonce_lock:
            nonce = await self._first_nonce()
            taken: set[int] = set()
            # Each refused nonce is a transaction of another sender that got through, so
            # somebody always makes progress, and we do before long.
            while loop.time() < deadline:
                signed = self._sign(call, terms, nonce)
                try:
                    refusal = await self._broadcast(signed, call)
                except asyncio.CancelledError:
                    # It may have arrived: remembered, its nonce cannot be a gap.
                    self._in_flight.add(signed, doubtful=True).landed.cancel()
                    self._next_nonce = nonce + 1
                    raise
                if refusal is None or refusal is Refusal.BUSY:
                    self._next_nonce = nonce + 1
                    doubtful = refusal is Refusal.BUSY
                    return self._in_flight.add(signed, doubtful=doubtful)
                if refusal is not Refusal.NONCE_AHEAD:
                    taken.add(nonce)
                nonce = await self._free_nonce(refusal, taken)
                await asyncio.sleep(_NONCE_PAUSE_SECONDS)
        raise ChainUnreachable(
            f"{call.what} was not sent: {self._address} got no nonce in time"
            f" ({len(taken)} were taken); do other programs send from it without pause?"
        )

    async def _broadcast(self, signed: SignedTransaction, call: Call) -> Refusal | None:
        """
        Send it once. None: the node has it. `BUSY`: nobody knows.

        Raises:
            ChainUnreachable: It surely did not arrive.
            TransactionFailed: The node will not have it.
            GasMissing: Our key cannot pay for it.
        """
        try:
            await self._rpc.call("eth_sendRawTransaction", signed.raw)
        except RequestNotSent:
            raise
        except NodeRefused as refusal:
            meaning = refusal_of(refusal)
            if meaning is Refusal.KNOWN:
                return None
            if meaning in _NOT_OURS:
                return meaning
            known = await self._knows(signed.hash)
            if known is None:
                return Refusal.BUSY
            if not known and meaning is Refusal.FINAL:
                if _is_poor(refusal):
                    raise self._poor(call) from refusal
                reason = f"{refusal.message} (sent from {self._address})"
                raise TransactionFailed(call.what, reason=reason) from refusal
            return None if known else meaning
        except ChainUnreachable:
            return None if await self._knows(signed.hash) else Refusal.BUSY
        log.debug("%s: sent transaction %s", call.what, signed.hash)
        return None

    async def _knows(self, transaction: Hash32) -> bool | None:
        try:
            found = await self._rpc.call("eth_getTransactionByHash", transaction)
        except ChainError:
            return None
        return found is not None

    async def _first_nonce(self) -> int:
        if self._in_flight.awaited:
            nonce = self._next_nonce
            while nonce in self._in_flight:
                nonce += 1
            return nonce
        # With nothing in flight the chain knows best: another sender may have used the
        # key, or a test may have turned the chain back.
        self._in_flight.forget_abandoned()
        return await self._pending_nonce()

    async def _free_nonce(self, refusal: Refusal, taken: set[int]) -> int:
        """The first nonce that neither the node, nor we, nor a refusal says is used."""
        if refusal is Refusal.NONCE_AHEAD:
            await self._in_flight.resend_missing()
        nonce = await self._pending_nonce()
        while nonce in self._in_flight or nonce in taken:
            nonce += 1
        return nonce

    async def _pending_nonce(self) -> int:
        method = "eth_getTransactionCount"
        try:
            answer = await self._rpc.call(method, self._address, "pending")
        except NodeRefused as refusal:
            raise self._chain.failure(refusal, method) from refusal
        return quantity_or_unreachable(self._rpc, answer)

    async def _wait(
        self, flight: Flight, call: Call, deadline: float
    ) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout_at(deadline):
                # Awaited unshielded: when we stop waiting, it counts as abandoned.
                return await flight.landed
        except TimeoutError:
            raise TransactionOutcomeUnknown(
                call.what, transaction=flight.signed.hash
            ) from None

    async def _judge(
        self, fields: dict[str, Any], call: Call, transaction: Hash32
    ) -> Receipt:
        with self._rpc.reading("eth_getTransactionReceipt"):
            receipt = receipt_of(fields)
            succeeded = quantity(fields["status"]) == 1
        if succeeded:
            return receipt
        reason = await self._why(call, receipt)
        raise TransactionFailed(call.what, reason=reason, transaction=transaction)

    async def _why(self, call: Call, receipt: Receipt) -> str:
        """Run a reverted call again on the block before, where it may say why."""
        try:
            before = hex(receipt.block - 1)
            await self._rpc.call("eth_call", self._fields(call), before)
        except NodeRefused as refusal:
            failure = self._chain.failure(refusal, call.what)
            if isinstance(failure, TransactionFailed):
                return failure.reason
        except ChainUnreachable:
            pass  # it is known to have failed; only the reason is lost
        return "it was mined and reverted"

    def _refused(self, refusal: NodeRefused, call: Call) -> ChainError:
        if _is_poor(refusal):
            return self._poor(call)
        return self._chain.failure(refusal, call.what)

    def _poor(self, call: Call) -> GasMissing:
        return GasMissing(
            f"{call.what} was not sent: {self._address} has too little of chain"
            f" {self._chain.chain_id}'s coin to pay for gas; send it some"
        )

    def _fields(self, call: Call, gas: int | None = None) -> dict[str, str]:
        data = "0x" + call.data.hex()
        fields = {"from": self._address, "to": call.to, "data": data}
        if call.value:
            fields["value"] = hex(call.value)
        if gas is not None:
            fields["gas"] = hex(gas)
        return fields

    def _sign(self, call: Call, terms: _Terms, nonce: int) -> SignedTransaction:
        signed = self._account.sign_transaction(
            {
                "type": 2,
                "chainId": self._chain.chain_id,
                "nonce": nonce,
                "to": call.to.to_bytes(),
                "value": call.value,
                "data": call.data,
                "gas": terms.gas,
                "maxFeePerGas": terms.fee_max,
                "maxPriorityFeePerGas": terms.tip,
            }
        )
        return SignedTransaction(
            nonce=nonce,
            hash=Hash32.of(bytes(signed.hash)),
            raw="0x" + bytes(signed.raw_transaction).hex(),
        )


def _too_much_gas(call: Call, cap: int) -> TransactionFailed:
    reason = f"it needs more than the {cap} gas that it may use"
    return TransactionFailed(call.what, reason=reason)


def _is_poor(refusal: NodeRefused) -> bool:
    said = refusal.message.lower()
    return "insufficient funds" in said or "exceeds allowance" in said


def _account_of(key: bytes | str) -> "LocalAccount":
    from eth_account import Account  # loaded when first used: it costs 0.6 s

    try:
        account: LocalAccount | None = Account.from_key(key)
    except Exception:  # noqa: BLE001 - it may be any, and its text repeats the key
        account = None
    if account is None:
        raise ConfigurationError("a private key is 32 bytes, or 64 hex digits")
    return account
