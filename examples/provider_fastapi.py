"""
A provider that charges for an API. Run `agentpay chain` first, then:

    uvicorn examples.provider_fastapi:app --port 8402
"""

import os

from fastapi import FastAPI

from agentpay import Payee, Paywall, Wallet

app = FastAPI()
payee = Payee(Wallet.from_key(os.environ["PROVIDER_KEY"]), store="provider.db")
app.add_middleware(Paywall, payee=payee, routes={"GET /joke": "$0.001"})


@app.get("/joke")
async def joke() -> dict[str, str]:
    return {"joke": "I would tell you a UDP joke, but you might not get it."}
