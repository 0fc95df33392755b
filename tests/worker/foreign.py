"""A project with its own Celery app that called `install(app)`: a plain task and a state computation."""

from __future__ import annotations

import os

from celery import Celery
from kombu import Exchange, Queue

from celery_partitions import install, key_extractor, state_computation

app = install(Celery("foreign", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"]))
app.conf.task_create_missing_queues = "NO_OTHER_QUEUES" not in os.environ
if "TASK_QUEUES" in os.environ:
    app.conf.task_queues = [Queue(name, Exchange(name), routing_key=name) for name in os.environ["TASK_QUEUES"].split(",")]


class Total:
    numbers: list[int] = []  # noqa: RUF012 - each key has its own


@app.task(name="add")
def add(one: int, other: int) -> int:
    return one + other


@key_extractor
def number_key(number: int) -> str:
    return "even" if number % 2 == 0 else "odd"


@state_computation(name="total", state=Total, key=number_key)
def total(number: int, state: Total) -> None:
    state.numbers.append(number)
