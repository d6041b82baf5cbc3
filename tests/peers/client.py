"""The official client: pays for what it is told to get, and says what it saw."""

import asyncio
import contextlib
import time
from collections.abc import Mapping

import httpx
from eth_account import Account
from lines import Json, named, note, obey, read, say
from x402 import x402Client
from x402.http.clients.httpx import PaymentError, x402AsyncTransport
from x402.mechanisms.evm.batch_settlement.client import (
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeOptions,
    RefundOptions,
)
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.mechanisms.evm.signers import EthAccountSignerWithRPC
from x402.mechanisms.evm.upto import UptoEvmScheme


class Recorder(httpx.AsyncHTTPTransport):
    """Sends, and keeps what was answered to each payment."""

    def __init__(self) -> None:
        super().__init__(limits=httpx.Limits(max_connections=None))
        self.notes: list[Json] = []
        self.lose = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        payment = request.headers.get("PAYMENT-SIGNATURE")
        if payment is not None:
            receipt = response.headers.get("PAYMENT-RESPONSE")
            self.notes.append(note(response.status_code, payment, receipt))
            if self.lose:
                self.lose = False
                await response.aclose()
                raise httpx.ReadError("the answer was lost", request=request)
        return response


class Answer:
    """What the SDK's refund wants to know of an answer."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers

    def header(self, name: str) -> str | None:
        return self.headers.get(name)


class Buyer:
    """One account's client."""

    def __init__(self, settings: Json) -> None:
        account = Account.from_key(settings["key"])
        signer = EthAccountSignerWithRPC(account, rpc_url=settings["rpc_url"])
        network = f"eip155:{settings['chain_id']}"
        client = x402Client()
        client.set_spend_controls(False)
        options = BatchSettlementEvmSchemeOptions(
            voucher_signer=EthAccountSignerWithRPC(
                Account.from_key(settings["voucher_key"]), rpc_url=settings["rpc_url"]
            )
        )
        self._channels = BatchSettlementEvmScheme(signer, options)
        for scheme in (ExactEvmScheme(signer), UptoEvmScheme(signer), self._channels):
            client.register(network, scheme)
        self._recorder = Recorder()
        self._http = httpx.AsyncClient(
            transport=x402AsyncTransport(client, self._recorder), timeout=60
        )

    async def act(self, command: Json) -> Json:
        match command["do"]:
            case "get":
                await self._http.get(command["url"])
                return {}
            case "lose":
                self._recorder.lose = True
                with contextlib.suppress(PaymentError):
                    await self._http.get(command["url"])
                return {}
            case "many":
                return await self._many(command["url"], command["count"])
            case "refund":
                amount = command["amount"]
                await asyncio.to_thread(self._refund, command["url"], amount)
                return {}
            case _:
                notes, self._recorder.notes = self._recorder.notes, []
                return {"notes": notes}

    async def _many(self, url: str, count: int) -> Json:
        async def one() -> bool:
            return (await self._http.get(url)).status_code == 200

        began = time.perf_counter()
        done = await asyncio.gather(
            *(one() for _ in range(count)), return_exceptions=True
        )
        seconds = round(time.perf_counter() - began, 2)
        return {"ok": done.count(True), "seconds": seconds}

    def _refund(self, url: str, amount: str | None) -> None:
        def fetch(url: str, headers: dict[str, str]) -> Answer:
            response = httpx.get(url, headers=headers, timeout=60)
            if payment := headers.get("PAYMENT-SIGNATURE"):
                receipt = response.headers.get("PAYMENT-RESPONSE")
                self._recorder.notes.append(
                    note(response.status_code, payment, receipt)
                )
            return Answer(response.status_code, response.headers)

        self._channels.refund(url, RefundOptions(amount=amount, fetch=fetch))


async def main() -> None:
    buyer = Buyer(read() or {})
    say({"version": named("x402-py", "x402")})
    await obey(buyer.act)


if __name__ == "__main__":
    asyncio.run(main())
