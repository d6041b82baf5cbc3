"""
Sells records by the kilobyte: the buyer pays for what was really sent.

    uvicorn examples.data_seller:app --port 8402
"""

import json
import os
from typing import Annotated

from fastapi import Depends, FastAPI, Response

from agentpay import PaidRequest, Payee, Paywall, Route, Wallet
from agentpay.http.fastapi import paid_request

PRICE_PER_KILOBYTE = 100  # base units: $0.0001
RECORDS = [{"id": n, "square": n * n, "note": "x" * (n % 50)} for n in range(1000)]

app = FastAPI()
payee = Payee(Wallet.from_key(os.environ["PROVIDER_KEY"]), store="seller.db")
routes = {"GET /records": Route(price="$0.01", metered=True)}
app.add_middleware(Paywall, payee=payee, routes=routes)


@app.get("/records")
async def records(
    first: int, count: int, paid: Annotated[PaidRequest, Depends(paid_request)]
) -> Response:
    body = json.dumps(RECORDS[first : first + min(count, 500)])
    kilobytes = -(-len(body) // 1024)  # rounded up, never below what was sent
    paid.charge(kilobytes * PRICE_PER_KILOBYTE)
    return Response(body, media_type="application/json")
