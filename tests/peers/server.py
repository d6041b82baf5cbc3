"""The official server: sells `/scheme/method` by each of its schemes."""

import asyncio
import json

import httpx
from fastapi import FastAPI, Request, Response
from lines import Json, named, note, read, serve
from x402 import x402ResourceServer
from x402.extensions.eip2612_gas_sponsoring import (
    declare_eip2612_gas_sponsoring_extension,
)
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.middleware.fastapi import (
    PaymentMiddlewareASGI,
    set_settlement_overrides,
)
from x402.http.types import PaymentOption, RouteConfig
from x402.mechanisms.evm.batch_settlement.authorizer_signer import (
    LocalAuthorizerSigner,
)
from x402.mechanisms.evm.batch_settlement.server import (
    BatchSettlementChannelManager,
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeServerConfig,
    ChannelManagerConfig,
)
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.mechanisms.evm.upto import UptoEvmServerScheme
from x402.schemas import AssetAmount


class Shop:
    """What is sold, and what is done with the vouchers."""

    def __init__(self, settings: Json) -> None:
        self._settings = settings
        self._network = f"eip155:{settings['chain_id']}"
        self.notes: list[Json] = []
        self._verified: set[str] = set()
        """Signatures of vouchers that the facilitator found valid."""
        facilitator = HTTPFacilitatorClient(
            FacilitatorConfig(
                url=settings["facilitator"],
                http_client=httpx.AsyncClient(
                    timeout=60, event_hooks={"response": [self._watch_facilitator]}
                ),
            )
        )
        channels = BatchSettlementEvmScheme(
            settings["pay_to"],
            BatchSettlementEvmSchemeServerConfig(
                receiver_authorizer_signer=LocalAuthorizerSigner(settings["key"]),
                withdraw_delay=settings["withdraw_delay"],
                # What it knows of a channel is old at once: its facilitator is asked.
                onchain_state_ttl_ms=None if settings["verifies_itself"] else -1,
            ),
        )
        self._manager = BatchSettlementChannelManager(
            ChannelManagerConfig(
                scheme=channels,
                facilitator=facilitator,
                receiver=settings["pay_to"],
                token=settings["token"],
                network=self._network,
            )
        )
        self._server = x402ResourceServer(facilitator)
        offered = {scheme for scheme, _ in settings["routes"]}
        for scheme in (ExactEvmServerScheme(), UptoEvmServerScheme(), channels):
            if scheme.scheme in offered:
                self._server.register(self._network, scheme)

    def _route(self, scheme: str, method: str) -> RouteConfig:
        extra = {"name": self._settings["name"], "version": self._settings["version"]}
        if method != "eip3009":
            extra["assetTransferMethod"] = method
        price = AssetAmount(
            amount=self._settings["price"], asset=self._settings["token"], extra=extra
        )
        return RouteConfig(
            accepts=PaymentOption(
                scheme=scheme,
                pay_to=self._settings["pay_to"],
                price=price,
                network=self._network,
                extra=extra,
            ),
            extensions=(
                declare_eip2612_gas_sponsoring_extension()
                if method == "permit2"
                else None
            ),
        )

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/{scheme}/{method}")
        async def sold(
            scheme: str, method: str, response: Response, seconds: float = 0
        ) -> Json:
            await asyncio.sleep(seconds)
            if scheme == "upto":
                used = {"amount": self._settings["used"]}
                set_settlement_overrides(response, used)
            return {"sold": f"{scheme} by {method}"}

        app.add_middleware(
            PaymentMiddlewareASGI,
            routes={
                f"GET /{s}/{m}": self._route(s, m) for s, m in self._settings["routes"]
            },
            server=self._server,
        )

        @app.middleware("http")
        async def watch(request: Request, call_next) -> Response:
            response = await call_next(request)
            if payment := request.headers.get("PAYMENT-SIGNATURE"):
                receipt = response.headers.get("PAYMENT-RESPONSE")
                seen = note(response.status_code, payment, receipt)
                signature = seen["payload"].get("voucher", {}).get("signature")
                self.notes.append({**seen, "verified": signature in self._verified})
            return response

        return app

    async def _watch_facilitator(self, response: httpx.Response) -> None:
        """Vouchers that it verifies; and what nobody pays for: claims and the like."""
        asked = json.loads(response.request.content)
        payload = asked["paymentPayload"]["payload"]
        await response.aread()
        answer = response.json()
        if answer.get("isValid") and "voucher" in payload:
            self._verified.add(payload["voucher"]["signature"])
        if payload.get("type") in ("claim", "settle"):
            seen = {"status": response.status_code, "payload": payload}
            self.notes.append({**seen, "receipt": answer})

    async def act(self, command: Json) -> Json:
        match command["do"]:
            case "claim":
                (claimed,) = await self._manager.claim()
                return {"transaction": claimed.transaction}
            case "settle":
                settled = await self._manager.settle()
                return {"transaction": settled.transaction}
            case _:
                notes, self.notes = self.notes, []
                return {"notes": notes}


async def main() -> None:
    shop = Shop(read() or {})
    await serve(shop.app(), shop.act, named("x402-py", "x402"))


if __name__ == "__main__":
    asyncio.run(main())
