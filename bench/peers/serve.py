"""The official SDK's server: the goods behind its middleware for FastAPI."""

import httpx
from x402 import x402ResourceServer
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.http.types import PaymentOption, RouteConfig
from x402.mechanisms.evm.batch_settlement.authorizer_signer import (
    LocalAuthorizerSigner,
)
from x402.mechanisms.evm.batch_settlement.server import (
    BatchSettlementChannelManager,
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeServerConfig,
    ChannelManagerConfig,
    ClaimOptions,
)
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.schemas import AssetAmount

from bench.goods import PRICE, SCHEMES, fastapi_goods
from bench.lines import Json, read, run, serve

_CLAIMS_MAX = 6


async def main() -> None:
    settings = read()
    network = f"eip155:{settings['chain_id']}"
    facilitator = HTTPFacilitatorClient(
        FacilitatorConfig(
            url=settings["facilitator"], http_client=httpx.AsyncClient(timeout=60)
        )
    )
    channels = BatchSettlementEvmScheme(
        settings["pay_to"],
        BatchSettlementEvmSchemeServerConfig(
            receiver_authorizer_signer=LocalAuthorizerSigner(settings["key"]),
            withdraw_delay=3600,
        ),
    )
    server = x402ResourceServer(facilitator)
    server.register(network, channels)
    server.register(network, ExactEvmServerScheme())
    manager = BatchSettlementChannelManager(
        ChannelManagerConfig(
            scheme=channels,
            facilitator=facilitator,
            receiver=settings["pay_to"],
            token=settings["token"],
            network=network,
        )
    )
    extra = {"name": settings["name"], "version": settings["version"]}
    price = AssetAmount(amount=str(PRICE), asset=settings["token"], extra=extra)
    app = fastapi_goods()
    app.add_middleware(
        PaymentMiddlewareASGI,
        routes={
            f"GET {path}": RouteConfig(
                accepts=PaymentOption(
                    scheme=scheme,
                    pay_to=settings["pay_to"],
                    price=price,
                    network=network,
                    extra=extra,
                )
            )
            for scheme, path in SCHEMES.items()
        },
        server=server,
    )

    async def act(command: Json) -> Json:
        del command
        # More do not fit what its facilitator lets one transaction use.
        await manager.claim(ClaimOptions(max_claims_per_batch=_CLAIMS_MAX))
        await manager.settle()
        return {}

    await serve(app, act, inherited=settings["inherited"])


if __name__ == "__main__":
    run(main())
