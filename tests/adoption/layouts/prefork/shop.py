"""A project that runs prefork workers and beat, and adds partitions with `install(app)`."""

from dataclasses import dataclass

import redis
from celery import Celery, signals

import celery_partitions
from celery_partitions import state_computation

URL = "redis://localhost:6379/0"

app = Celery("shop", broker=URL, backend=URL)
app.conf.task_routes = {"shop.report": {"queue": "reports"}}
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 1
app.conf.beat_schedule = {
    "tick": {"task": "shop.tick", "schedule": 0.2},
    "accrue": {"task": "shop.accrue", "schedule": 0.2, "args": [{"account": "savings", "amount": 1}]},
}
celery_partitions.install(app)

store = redis.Redis.from_url(URL)


@signals.worker_process_init.connect
def note_child(**_):
    store.incr("children")


@app.task(name="shop.tick")
def tick():
    return store.incr("ticks")


@app.task(name="shop.report")
def report(text):
    store.rpush("reports printed", text)


@dataclass
class Deposit:
    account: str
    amount: int


class Balance:
    total = 0


@state_computation(name="shop.accrue", state=Balance, key=lambda deposit: deposit.account)
def accrue(deposit: Deposit, balance: Balance) -> None:
    balance.total += deposit.amount
