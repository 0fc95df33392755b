"""The service's Celery app and computation. The web process imports this module too, to send messages."""

from celery import Celery
from pydantic import BaseModel, PositiveFloat

import celery_partitions
from celery_partitions import state_computation

app = Celery("prices", broker="redis://localhost:6379/0")
celery_partitions.install(app)


class Price(BaseModel):
    symbol: str
    price: PositiveFloat


class Last:
    price = 0.0
    count = 0


@state_computation(name="last price", state=Last, key=lambda price: price.symbol)
def remember(price: Price, last: Last) -> None:
    last.price = price.price
    last.count += 1
