"""
The official facilitator, as a service with the three endpoints of the protocol, and
with a catalogue of what it settled (the extension `bazaar`).
"""

import asyncio

from fastapi import FastAPI
from lines import Json, named, read, serve
from x402 import x402FacilitatorSync
from x402.extensions.bazaar import BAZAAR, extract_discovery_info
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
        self._facilitator.register_extension(BAZAAR)
        self._facilitator.on_after_settle(self._list)
        self._catalogue: dict[str, str] = {}
        """By a payment's signatures: the URL that it would list."""
        self.notes: list[Json] = []

    def _list(self, settled) -> None:
        """What the SDK reads of a payment, once it has held it against its schema."""
        found = extract_discovery_info(settled.payment_payload, settled.requirements)
        if found is not None:
            signed = str(settled.payment_payload.payload)
            self._catalogue[signed] = f"{found.method} {found.resource_url}"

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
            payment, wanted = _read(asked)
            answer = _plain(self._facilitator.settle(payment, wanted))
            payload = asked["paymentPayload"]["payload"]
            seen = {"status": 200, "payload": payload, "receipt": answer}
            listed = self._catalogue.pop(str(payment.payload), "")
            self.notes.append({**seen, "listed": listed})
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
