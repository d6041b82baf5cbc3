"""The official MPP client in Python: pays EVM charges, and says what it saw."""

import asyncio

import httpx
from eth_account import Account
from lines import Json, mpp_note, named, obey, read, say
from mpp.client import PaymentTransport
from mpp.methods.evm import client as evm


class Recorder(httpx.AsyncHTTPTransport):
    """Sends, and keeps what was answered to each payment."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Json] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        payment = request.headers.get("Authorization")
        if payment is not None:
            receipt = response.headers.get("Payment-Receipt")
            self.notes.append(mpp_note(response.status_code, payment, receipt))
        return response


class Buyer:
    """One account's client."""

    def __init__(self, settings: Json) -> None:
        method = evm.charge(
            currency=settings["token"],
            chain_id=settings["chain_id"],
            decimals=settings["decimals"],
            authorization={"name": settings["name"], "version": settings["version"]},
            account=Account.from_key(settings["key"]),
        )
        self._recorder = Recorder()
        self._http = httpx.AsyncClient(
            transport=PaymentTransport(methods=[method], inner=self._recorder),
            timeout=60,
        )

    async def act(self, command: Json) -> Json:
        if command["do"] == "get":
            answer = await self._http.get(command["url"])
            return {"status": answer.status_code}
        if command["do"] == "post":
            answer = await self._http.post(command["url"], content=command["body"])
            return {"status": answer.status_code}
        notes, self._recorder.notes = self._recorder.notes, []
        return {"notes": notes}


async def main() -> None:
    buyer = Buyer(read() or {})
    say({"version": named("pympp", "pympp")})
    await obey(buyer.act)


if __name__ == "__main__":
    asyncio.run(main())
