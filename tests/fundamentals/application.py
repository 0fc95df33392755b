"""All tasks and computations that the tests' workers run: number sequences, slow and failing ones, and some that report each run.

The sleep here is the work that a test interrupts. No test waits with it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache

import redis
from celery.exceptions import Reject

from celery_partitions import Context, app, key_extractor, state_computation
from tests.support.applications.plain_tasks import plain
from tests.support.applications.sequences import Sequence, Step, record
from tests.support.applications.slow import Attempt, Nap, fail, sleep

__all__ = [
    "WITNESSED",
    "Attempt",
    "Deed",
    "Meeting",
    "Nap",
    "Sale",
    "Sequence",
    "Step",
    "app",
    "fail",
    "meet",
    "plain",
    "plain_task_witness",
    "record",
    "requeue_itself",
    "sell",
    "sleep",
    "witness",
]

#: The list that computations append to while they run, in the server and database of `REDIS_URL`.
WITNESSED = "witnessed"

#: How long the first computation of a meeting waits for the second.
MEETING_SECONDS = 20


@dataclass
class Deed:
    """A message whose computation appends `<process id>:<number>` to `WITNESSED` first, and then takes `seconds`."""

    key: str
    number: int
    seconds: float = 0.0


@dataclass
class Meeting:
    """A message whose computation succeeds only if the computation of `other` runs at the same time."""

    key: str
    number: int
    other: str


@cache
def redis_client() -> redis.Redis:
    return redis.Redis.from_url(os.environ["REDIS_URL"])


@key_extractor
def deed_key(deed: Deed) -> str:
    return deed.key


@key_extractor
def meeting_key(meeting: Meeting) -> str:
    return meeting.key


@state_computation(name="witness", state=Sequence, key=deed_key)
def witness(deed: Deed, state: Sequence) -> None:
    redis_client().rpush(WITNESSED, f"{os.getpid()}:{deed.number}")
    time.sleep(deed.seconds)
    state.numbers.append(deed.number)


@state_computation(name="meet", state=Sequence, key=meeting_key)
def meet(meeting: Meeting, state: Sequence) -> None:
    client = redis_client()
    client.rpush(f"here:{meeting.key}", "here")
    if client.blpop([f"here:{meeting.other}"], MEETING_SECONDS) is None:
        raise TimeoutError(f"the computation of {meeting.other} did not start")
    state.numbers.append(meeting.number)


@dataclass
class Sale:
    """A message whose computation sends `number` to a plain task, or itself to another key. It may fail afterwards, in the first try."""

    key: str
    number: int
    fails: bool = True
    forward_to: str = ""


@key_extractor
def sale_key(sale: Sale) -> str:
    return sale.key


@state_computation(name="sell", state=Sequence, key=sale_key)
def sell(sale: Sale, state: Sequence, context: Context) -> None:
    state.numbers.append(sale.number)
    if sale.forward_to:
        sell.delay(Sale(sale.forward_to, sale.number, fails=False))
    elif not sale.key.endswith("total"):
        plain_task_witness.delay(sale.number)
    if sale.fails and context.attempt == 1:
        raise RuntimeError("after it has sent")


@app.task(name="requeue itself", acks_late=True)
def requeue_itself(times: int, counter: str) -> None:
    """Requeues itself `times` times."""
    if redis_client().incr(counter) <= times:
        raise Reject("not yet", requeue=True)
    redis_client().rpush(WITNESSED, f"{os.getpid()}:{times}")


@app.task(name="slow plain task")
def slow_plain_task(seconds: float) -> None:
    """A plain Celery task that takes `seconds`."""
    time.sleep(seconds)


@app.task(name="plain task witness")
def plain_task_witness(number: int) -> int:
    """A plain Celery task that appends to `WITNESSED` as `witness` does."""
    redis_client().rpush(WITNESSED, f"{os.getpid()}:{number}")
    return number
