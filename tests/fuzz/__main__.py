"""
Sends both sides and the facilitator what they should not be sent, and counts.

    python -m tests.fuzz [--count 200000] [--seed 402]

Nothing of it is a socket but the way to a real Anvil. It exits with 1 if anything was
answered with a status of the 500 class or raised, took too long, changed a store though
nothing was accepted, or if memory grew.
"""

import argparse
import asyncio
import logging
import secrets
import sys
import time
from random import Random

from agentpay.testing.local_chain import LocalChain
from tests.fuzz.buyers import Buyers
from tests.fuzz.challengers import Challengers
from tests.fuzz.payees import Payees
from tests.fuzz.sellers import Sellers
from tests.fuzz.tally import Tally, resident

_SECONDS_EACH = 60
_ROUND = 2_500
"""After so many, everything is stopped, and started on new accounts."""
_SHARES = (50, 27, 13, 10)
_GROWTH_MAX = 32 * 2**20
PARSED_MIN, SIGNED_MIN = 0.3, 0.2


async def fuzz(count: int, seed: int) -> Tally:
    """So many inputs to all of them."""
    rng, tally = Random(seed), Tally()
    early, quarter = 0, count // 4
    async with LocalChain() as chain:
        while tally.inputs < count:
            await one_round(rng, chain, tally, min(_ROUND, count - tally.inputs))
            print(f"  {tally.inputs:,} sent, {resident() >> 20} MiB", flush=True)
            if not early and tally.inputs >= quarter:
                early = resident()
    late = resident()
    print(f"memory: {early >> 20} MiB after a quarter, {late >> 20} MiB at the end")
    if count > 10 * _ROUND and late - early > _GROWTH_MAX:
        tally.blame(f"memory grew by {late - early} bytes", "everything")
    return tally


async def one_round(rng: Random, chain: LocalChain, tally: Tally, count: int) -> None:
    """Start all of them, send them their shares, and stop them."""
    kinds = (Buyers, Payees, Sellers, Challengers)
    every = [kind(rng, chain, tally) for kind in kinds]
    for each in every:
        await each.start()
    for _ in range(count):
        (each,) = rng.choices(every, _SHARES)
        began = time.monotonic()
        try:
            async with asyncio.timeout(_SECONDS_EACH):
                await each.one()
        except TimeoutError:
            tally.blame(f"no answer in {_SECONDS_EACH} s", type(each).__name__)
        except Exception as error:  # noqa: BLE001 - whatever comes out is a fault
            tally.blame(f"{type(error).__name__}: {error}", type(each).__name__)
        tally.took(time.monotonic() - began)
    for each in every:
        await each.stop()


def main() -> int:
    """Run it, print what was seen, and say whether that was well."""
    parser = argparse.ArgumentParser(description="Send what should not be sent.")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args()
    logging.disable(logging.ERROR)  # it complains of what it is sent, as it should
    print(f"seed {options.seed}, {options.count:,} inputs", flush=True)
    began = time.monotonic()
    tally = asyncio.run(fuzz(options.count, options.seed))
    for line in tally.lines():
        print(line)
    print(f"{time.monotonic() - began:.0f} s")
    for what in tally.wrong:
        print(f"WRONG: {what}", file=sys.stderr)
    shares = tally.parsed / tally.inputs, tally.signed / tally.inputs
    few = shares[0] < PARSED_MIN or shares[1] < SIGNED_MIN
    if few:
        print("too few inputs get past parsing", file=sys.stderr)
    return 1 if tally.wrong or few else 0


if __name__ == "__main__":
    sys.exit(main())
