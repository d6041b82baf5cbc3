"""
A toy text generator that is paid by the token while it writes.

    uvicorn examples.streamed_inference:app --port 8402
"""

import os
import random
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse

from agentpay import (
    MppTerms,
    PaidRequest,
    Payee,
    Paywall,
    Rate,
    Rounding,
    Route,
    Streaming,
    Tariff,
    Wallet,
)
from agentpay.core.meter import TOKEN
from agentpay.http.fastapi import paid_request

WORDS = ["pay", "for", "the", "tokens", "made", "and", "nothing", "else"]
PER_TOKEN = Tariff(rates=(Rate(unit=TOKEN, price=20),), rounding=Rounding.UP)

app = FastAPI()
mpp = MppTerms(realm="127.0.0.1", secrets=(os.urandom(32),))  # keep yours over restarts
payee = Payee(Wallet.from_key(os.environ["PROVIDER_KEY"]), store="words.db", mpp=mpp)
routes = {
    "POST /generate": Route(
        price="$0.05",  # the most that one answer may cost
        metered=True,
        tariff=PER_TOKEN,
        streaming=Streaming(increment="$0.001"),
    )
}
app.add_middleware(Paywall, payee=payee, routes=routes)


@app.post("/generate")
async def generate(
    paid: Annotated[PaidRequest, Depends(paid_request)], tokens: int = 500
) -> StreamingResponse:
    async def words() -> AsyncIterator[str]:
        for _ in range(tokens):
            await paid.meter.charge(tokens=1)  # before the token leaves
            yield f"data: {random.choice(WORDS)}\n\n"  # noqa: S311 - a toy

    return StreamingResponse(words(), media_type="text/event-stream")
