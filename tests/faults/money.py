"""
What became of an agent's money, by the chain alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentpay.chain.rpc import RpcChain
from agentpay.evm import batch_settlement_abi as contract
from agentpay.evm import eip3009_abi as eip3009
from agentpay.evm.hashing import address_word, keccak
from agentpay.evm.session_escrow import SessionConfig
from agentpay.records import PayerRecord
from agentpay.session_onchain import read_session
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address

_TRANSFER = "0x" + keccak(b"Transfer(address,address,uint256)").hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """All that an agent's account gave away, in base units."""

    transferred: int
    """To the provider."""
    deposited: int
    """To anybody else: the contracts of channels."""
    returned: int
    claimed: int
    """By the provider, of what was deposited."""
    escrowed: int
    """Deposited, and not claimed."""
    left: int
    """In the agent's account."""

    @property
    def paid(self) -> int:
        return self.transferred + self.claimed


async def count(
    chain: LocalChain,
    view: RpcChain,
    *,
    agent: Address,
    provider: Address,
    records: list[PayerRecord],
) -> Money:
    """Add up the token's events, and what the contract says of the channels."""
    sent = await _transfers(chain, sender=agent)
    received = await _transfers(chain, receiver=agent)
    claimed = escrowed = 0
    for record in records:
        took, left = await _held(view, record)
        claimed, escrowed = claimed + took, escrowed + left
    minted = "0x" + "0" * 40
    return Money(
        transferred=sum(value for _, to, value in sent if to == provider),
        deposited=sum(value for _, to, value in sent if to != provider),
        returned=sum(value for by, _, value in received if by != minted),
        claimed=claimed,
        escrowed=escrowed,
        left=await chain.balance(agent),
    )


async def authorized_transfers(
    chain: LocalChain, *, agent: Address, provider: Address
) -> dict[str, int]:
    """
    What moved from an agent to a provider by each nonce that the agent signed. The
    token tells of the nonce right before it tells of its transfer (EIP-3009).
    """
    by, to = _topic(agent), _topic(provider)
    used = await _logs(chain, [eip3009.AUTHORIZATION_USED, by])
    moved = {
        (log["transactionHash"], int(log["logIndex"], 16)): int(log["data"], 16)
        for log in await _logs(chain, [_TRANSFER, by, to])
    }
    nonces = {
        (log["transactionHash"], int(log["logIndex"], 16) + 1): log["topics"][2]
        for log in used
    }
    return {nonce: moved.get(place, 0) for place, nonce in nonces.items()}


async def _held(view: RpcChain, record: PayerRecord) -> tuple[int, int]:
    """What the provider took out of a channel or session, and what is left in it."""
    if isinstance(record.config, SessionConfig):
        session = await read_session(view, record.config)
        return session.settled, session.unsettled
    calls = contract.channel_state_calls(record.channel)
    state = contract.decode_channel_state(await view.read(calls))
    return state.claimed, state.balance - state.claimed


async def _transfers(
    chain: LocalChain, *, sender: Address | None = None, receiver: Address | None = None
) -> list[tuple[str, str, int]]:
    topics = [_TRANSFER, _topic(sender), _topic(receiver)]
    return [
        (_account(log["topics"][1]), _account(log["topics"][2]), int(log["data"], 16))
        for log in await _logs(chain, topics)
    ]


async def _logs(
    chain: LocalChain, topics: Sequence[str | None]
) -> list[dict[str, Any]]:
    asked = {"address": chain.usdc.address, "topics": topics, "fromBlock": "0x0"}
    logs: list[dict[str, Any]] = await chain.node.rpc("eth_getLogs", asked)
    return logs


def _topic(account: Address | None) -> str | None:
    return None if account is None else "0x" + address_word(account).hex()


def _account(topic: str) -> Address:
    return Address("0x" + topic[-40:])
