"""
A toy text generator that charges for the tokens it really made, up to a maximum.

    uvicorn examples.metered_inference:app --port 8402
"""

import os
import random
from typing import Annotated

from fastapi import Depends, FastAPI

from agentpay import PaidRequest, Payee, Paywall, Route, Wallet
from agentpay.http.fastapi import paid_request

PRICE_PER_TOKEN = 20  # base units: $0.00002
WORDS = ["pay", "for", "the", "tokens", "made", "and", "nothing", "else"]

app = FastAPI()
payee = Payee(Wallet.from_key(os.environ["PROVIDER_KEY"]), store="inference.db")
routes = {"POST /generate": Route(price="$0.002", metered=True)}
app.add_middleware(Paywall, payee=payee, routes=routes)


@app.post("/generate")
async def generate(
    seed: int, paid: Annotated[PaidRequest, Depends(paid_request)]
) -> dict[str, object]:
    dice = random.Random(seed)  # noqa: S311 - a toy, not a secret
    tokens = [dice.choice(WORDS) for _ in range(dice.randint(1, 100))]
    paid.charge(len(tokens) * PRICE_PER_TOKEN)
    return {"text": " ".join(tokens), "tokens": len(tokens), "payer": paid.payer}
