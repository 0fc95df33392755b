from fastapi import FastAPI, HTTPException
from fastapi.concurrency import run_in_threadpool

from prices.worker import Price, remember

api = FastAPI()


@api.post("/prices", status_code=202)
def receive(price: Price) -> dict[str, str]:
    return {"id": remember.delay(price).id}


@api.post("/prices/async", status_code=202)
async def receive_in_a_coroutine(price: Price) -> dict[str, str]:
    sent = await run_in_threadpool(remember.delay, price)
    return {"id": sent.id}


@api.get("/prices/{symbol}")
def show(symbol: str) -> dict[str, float]:
    last = remember.state(symbol)
    if last is None:
        raise HTTPException(404)
    return {"price": last.price, "count": last.count}
