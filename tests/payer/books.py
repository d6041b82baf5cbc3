"""What the books of both ends say of an agent's channels, of either protocol."""

from agentpay import Agent, Payee


async def spent(agent: Agent) -> int:
    """What an agent's books say was spent on its channels, in base units."""
    return sum(record.ledger.spent for record in await agent.channels())


async def charged(payee: Payee, agent: Agent) -> int:
    """What the payee's books say of the same channels."""
    store = payee._running.store.payee
    records = [await store.read(r.channel) for r in await agent.channels()]
    return sum(record.ledger.charged for record in records if record is not None)


async def none_open(agent: Agent) -> bool:
    """Whether it is known of each request what became of it."""
    return all(not record.ledger.open for record in await agent.channels())


async def at_rest(agent: Agent) -> bool:
    """The same, and whether no deposit is under way."""
    return all(
        not record.ledger.open and record.ledger.deposit is None
        for record in await agent.channels()
    )
