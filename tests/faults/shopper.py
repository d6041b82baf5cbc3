"""An agent in a process of its own: buys what a list says and notes what came of it."""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from agentpay import (
    Agent,
    AgentPayError,
    AnswerLost,
    Budget,
    PaymentOutcomeUnknown,
    Policy,
    Wallet,
)
from agentpay.testing.local_chain import LocalChain

BUDGET = Budget(total="$2", per_request="$0.01")
PREFER = {
    "x402": ("batch-settlement", "exact"),
    "mpp": ("session", "charge"),
}


def policy(protocol: str) -> Policy:
    return Policy(
        prefer=PREFER[protocol],
        deposit="$0.04",
        low_water="$0.004",
        headroom="$0.05",
        give_up_seconds=20,
        authorization_seconds_max=15,
        quarantine_after=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What an agent is to buy, as its process is told."""

    chain_url: str
    rpc_url: str
    key: str
    store: str
    base: str
    protocol: str
    """What it pays by: `x402` or `mpp`."""
    paths: tuple[str, ...]
    """The n-th request is for the n-th of these."""
    name: str
    at_once: int
    notes: str
    """The file that it adds a line to before each request, and one after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One line of the notes."""

    number: int
    outcome: str
    """"begun", "paid", "lost", "cut", "gateway", "unknown", or the name of an error."""
    charged: int = 0
    at: float


def read_notes(file: str) -> list[Note]:
    """All whole lines; the last one may have been cut off by a kill."""
    if not Path(file).exists():
        return []
    with Path(file).open() as lines:
        return [Note(**json.loads(line)) for line in lines if line.endswith("}\n")]


def request_name(errand: str, number: int) -> str:
    return f"{errand}-{number}"


def make_agent(errand: Errand) -> Agent:
    chain = LocalChain(rpc_url=errand.chain_url)
    return Agent(
        Wallet.from_key(errand.key),
        budget=BUDGET,
        policy=policy(errand.protocol),
        network=chain.network,
        rpc_url=errand.rpc_url,
        store=errand.store,
        allow_private_networks=True,
    )


class Shopper:
    """Runs an errand, so many requests at once, and begins none of them twice."""

    def __init__(self, errand: Errand, agent: Agent) -> None:
        self._errand = errand
        self._agent = agent
        self._room = asyncio.Semaphore(errand.at_once)

    async def run(self) -> None:
        begun = {note.number for note in read_notes(self._errand.notes)}
        left = [n for n in range(len(self._errand.paths)) if n not in begun]
        await asyncio.gather(*(self._buy(number) for number in left))

    async def _buy(self, number: int) -> None:
        url = self._errand.base + self._errand.paths[number]
        name = request_name(self._errand.name, number)
        async with self._room:
            self._note(number, "begun")
            try:
                answer = await self._agent.get(url, headers={"x-request": name})
            except AnswerLost as error:
                self._note(number, "lost", error.charged or 0)
            except PaymentOutcomeUnknown:
                self._note(number, "unknown")
            except httpx.TransportError:  # paid, and its body broke off
                self._note(number, "cut")
            except AgentPayError as error:
                self._note(number, error.code)
            else:
                self._note(number, _outcome(answer, name))

    def _note(self, number: int, outcome: str, charged: int = 0) -> None:
        note = Note(number=number, outcome=outcome, charged=charged, at=time.time())
        with Path(self._errand.notes).open("a") as notes:
            notes.write(json.dumps(asdict(note)) + "\n")


def _outcome(answer: httpx.Response, name: str) -> str:
    if answer.status_code == 502:
        return "gateway"  # whoever answered that does not know what was paid
    right = answer.status_code == 200 and answer.text == name
    return "paid" if right else f"wrong {answer.status_code}"


async def main(told: str) -> None:
    errand = Errand(**json.loads(told))
    async with make_agent(errand) as agent:
        await Shopper(errand, agent).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
