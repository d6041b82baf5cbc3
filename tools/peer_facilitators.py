"""
The facilitators of the peer matrix: the official one, and ours as people start it.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from peer_evidence import Json
from peer_parties import SCHEMES
from peer_process import Peer, PeerFailed
from peer_wallets import chain_settings

from agentpay.evm.hashing import checksummed
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, network_of

COMMAND = Path(sys.executable).with_name("agentpay")
_START_SECONDS = 30
_STOP_SECONDS = 10
_KEY = "FACILITATOR_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facilitator:
    """Who settles."""

    url: str
    account: Address
    """Sends its transactions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirFacilitator(Facilitator):
    """The official one, in a process that says what it saw."""

    peer: Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class OurFacilitator(Facilitator):
    """`agentpay facilitator`."""

    supported: Json
    """What it answered to `/supported`."""

    def lacks(self, chain: LocalChain) -> list[str]:
        """The schemes that it does not list, and its account if it is not there."""
        network = network_of(chain.chain_id)
        kinds = self.supported["kinds"]
        listed = {k["scheme"] for k in kinds if k["network"] == network}
        missing = [scheme for scheme in SCHEMES if scheme not in listed]
        signers = self.supported["signers"]["eip155:*"]
        return missing if checksummed(self.account) in signers else [*missing, "signer"]


@contextlib.asynccontextmanager
async def their_facilitator(chain: LocalChain) -> AsyncIterator[TheirFacilitator]:
    """The official facilitator, with gas."""
    wallet = await chain.funded_wallet(0)
    async with Peer.running("facilitator.py", chain_settings(chain, wallet)) as peer:
        yield TheirFacilitator(url=peer.url, account=wallet.address, peer=peer)


@contextlib.asynccontextmanager
async def our_facilitator(chain: LocalChain) -> AsyncIterator[OurFacilitator]:
    """The command, as a process of its own, with gas; it ends by its process id."""
    wallet = await chain.funded_wallet(0)
    with tempfile.TemporaryDirectory(prefix="facilitator-") as folder:
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "facilitator", "--rpc-url", chain.rpc_url, "--port", "0"),
            *("--key-env", _KEY, "--store", str(Path(folder, "book.db"))),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, _KEY: wallet.gas_key().hex()},
        )
        try:
            url = await _first_line(process)
            async with httpx.AsyncClient(trust_env=False) as client:
                supported: Json = (await client.get(f"{url}/supported")).json()
            yield OurFacilitator(url=url, account=wallet.address, supported=supported)
        finally:
            await _stop(process)


async def _first_line(process: asyncio.subprocess.Process) -> str:
    """Where it listens, which is the first thing that it says."""
    stdout = process.stdout
    if stdout is None:
        raise PeerFailed("agentpay facilitator has no output")
    try:
        async with asyncio.timeout(_START_SECONDS):
            line = (await stdout.readline()).decode()
    except TimeoutError as error:
        raise PeerFailed("agentpay facilitator does not start") from error
    if not line:
        raise PeerFailed("agentpay facilitator ended")
    return line.split()[-1]


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
