"""The official SDK's whole client, over httpx."""

import httpx
from eth_account import Account
from x402 import x402Client
from x402.http.clients.httpx import x402AsyncTransport
from x402.mechanisms.evm.batch_settlement.client import (
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeOptions,
)
from x402.mechanisms.evm.signers import EthAccountSignerWithRPC

from bench.lines import Json, obey, read, run
from bench.many import many


async def main() -> None:
    settings = read()
    account = Account.from_key(settings["key"])
    signer = EthAccountSignerWithRPC(account, rpc_url=settings["rpc_url"])
    client = x402Client()
    client.set_spend_controls(False)
    channels = BatchSettlementEvmScheme(signer, BatchSettlementEvmSchemeOptions())
    client.register(f"eip155:{settings['chain_id']}", channels)
    limits = httpx.Limits(max_connections=None)
    transport = x402AsyncTransport(client, httpx.AsyncHTTPTransport(limits=limits))
    async with httpx.AsyncClient(transport=transport, timeout=60) as http:

        async def act(command: Json) -> Json:
            return await many(http, command)

        await obey(act)


if __name__ == "__main__":
    run(main())
