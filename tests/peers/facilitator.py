"""The official facilitator, as a service with the three endpoints of the protocol."""

import asyncio

from fastapi import FastAPI
from lines import Json, named, read, serve
from x402 import x402FacilitatorSync
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.batch_settlement.facilitator import (
    BatchSettlementEvmFacilitator,
)
from x402.mechanisms.evm.exact import ExactEvmFacilitatorScheme
from x402.mechanisms.evm.upto import UptoEvmFacilitatorScheme
from x402.schemas import PaymentPayload, PaymentRequirements


class Service:
    """Verifies and settles, and keeps what it answered."""

    def __init__(self, settings: Json) -> None:
        signer = FacilitatorWeb3Signer(settings["key"], settings["rpc_url"])
        network = [f"eip155:{settings['chain_id']}"]
        self._facilitator = x402FacilitatorSync()
        self._facilitator.register(network, ExactEvmFacilitatorScheme(signer))
        self._facilitator.register(network, UptoEvmFacilitatorScheme(signer))
        self._facilitator.register(network, BatchSettlementEvmFacilitator(signer))
        self.notes: list[Json] = []

    def app(self) -> FastAPI:
        app = FastAPI()

        # Not coroutines: the SDK's facilitator waits for receipts in its thread.
        @app.get("/supported")
        def supported() -> Json:
            return _plain(self._facilitator.get_supported())

        @app.post("/verify")
        def verify(asked: Json) -> Json:
            return _plain(self._facilitator.verify(*_read(asked)))

        @app.post("/settle")
        def settle(asked: Json) -> Json:
            answer = _plain(self._facilitator.settle(*_read(asked)))
            payload = asked["paymentPayload"]["payload"]
            self.notes.append({"status": 200, "payload": payload, "receipt": answer})
            return answer

        return app

    async def act(self, command: Json) -> Json:
        del command
        notes, self.notes = self.notes, []
        return {"notes": notes}


def _plain(answer) -> Json:
    return answer.model_dump(by_alias=True, exclude_none=True)


def _read(asked: Json) -> tuple[PaymentPayload, PaymentRequirements]:
    return (
        PaymentPayload.model_validate(asked["paymentPayload"]),
        PaymentRequirements.model_validate(asked["paymentRequirements"]),
    )


async def main() -> None:
    service = Service(read() or {})
    await serve(service.app(), service.act, named("x402-py", "x402"))


if __name__ == "__main__":
    asyncio.run(main())
