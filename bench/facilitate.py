"""Our facilitator; its transfers share transactions where it is told to wait."""

from dataclasses import replace

from agentpay import Wallet
from agentpay.evm.networks import LOCAL
from agentpay.facilitator.batches import BatchPolicy
from agentpay.facilitator.host import FacilitatorHost, FacilitatorLimits
from agentpay.http.facilitator_app import FacilitatorApp
from bench.lines import Json, read, run, serve

_GAS_UNLIMITED = 10**12


async def nothing(command: Json) -> Json:
    del command
    return {}


async def main() -> None:
    settings = read()
    seconds = settings["batch_seconds"]
    host = FacilitatorHost(
        [Wallet.from_key(settings["key"])],
        network=replace(LOCAL, rpc_url=settings["rpc_url"]),
        limits=FacilitatorLimits(
            gas_per_hour=_GAS_UNLIMITED, gas_per_payee_hour=_GAS_UNLIMITED
        ),
        batch=BatchPolicy(seconds=seconds) if seconds else None,
    )
    await host.start()
    await serve(FacilitatorApp(host), nothing)
    await host.stop()


if __name__ == "__main__":
    run(main())
