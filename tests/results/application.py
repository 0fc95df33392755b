"""The application of the tests of results: a computation that replies, one that fails, and plain tasks.

A message is `{"key": …, "number": …}`, and most of them return such a value, so that any can follow any other.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import redis

from celery_partitions import Context, RetryPolicy, app, computation, key_extractor, state_computation

__all__ = ["RAN", "Refused", "add", "alone", "app", "as_text", "close_up", "gather", "held", "quiet", "refuse", "tried"]

#: The list that plain tasks append `<name>:<argument>` to.
RAN = "ran"


class Refused(Exception):
    """A user's own exception, with data."""

    def __init__(self, key: str, number: int) -> None:
        super().__init__(key, number)
        self.key, self.number = key, number


class Numbers:
    numbers: list[int] = []  # noqa: RUF012 - each key has its own


@key_extractor
def key_of(message: dict[str, Any]) -> str:
    return str(message["key"])


@state_computation("results.add", state=Numbers, key=key_of, reply=True)
def add(message: dict[str, Any], state: Numbers) -> dict[str, Any]:
    """The key's sum so far."""
    state.numbers.append(message["number"])
    return {"key": message["key"], "number": sum(state.numbers)}


@state_computation("results.quiet", state=Numbers, key=key_of)
def quiet(message: dict[str, Any], state: Numbers) -> dict[str, Any]:
    """Like `add`, for callers that ask for the value explicitly."""
    state.numbers.append(message["number"])
    return {"key": message["key"], "number": sum(state.numbers)}


@state_computation("results.refuse", state=Numbers, key=key_of, reply=True, on_error=RetryPolicy(attempts=0, exhausted="dead_letter"))
def refuse(message: dict[str, Any], state: Numbers) -> dict[str, Any]:
    """Raises for a number below zero."""
    state.numbers.append(message["number"])
    if message["number"] < 0:
        raise Refused(message["key"], message["number"])
    return {"key": message["key"], "number": sum(state.numbers)}


@state_computation("results.alone", state=Numbers, key=key_of, reply=True, follow_ups=False)
def alone(message: dict[str, Any], state: Numbers) -> dict[str, Any]:
    """Takes no message that something follows."""
    state.numbers.append(message["number"])
    return {"key": message["key"], "number": sum(state.numbers)}


@state_computation("results.tried", state=Numbers, key=key_of, reply=True)
def tried(message: dict[str, Any], state: Numbers, context: Context) -> dict[str, Any]:
    """Raises at the first attempt."""
    state.numbers.append(message["number"])
    if context.attempt == 1:
        raise Refused(message["key"], message["number"])
    return {"key": message["key"], "number": sum(state.numbers)}


@state_computation("results.held", state=Numbers, key=key_of, reply=True, on_error=RetryPolicy(attempts=0, exhausted="hold"))
def held(message: dict[str, Any], state: Numbers) -> dict[str, Any]:
    """Raises until the Redis key `repaired` exists."""
    state.numbers.append(message["number"])
    if not client().exists("repaired"):
        raise Refused(message["key"], message["number"])
    return {"key": message["key"], "number": sum(state.numbers)}


@state_computation("results.close up", state=Numbers, key=key_of, reply=True)
def close_up(message: dict[str, Any], state: Numbers) -> Any:
    """Returns the state's own list, which the next message changes; for 13 a value that is not JSON."""
    state.numbers.append(message["number"])
    return object() if message["number"] == 13 else state.numbers


@computation("results.gather", key=lambda _: "gathered", reply=True)
def gather(values: list[dict[str, Any]]) -> dict[str, Any]:
    """The body of a chord."""
    run(f"gather:{sorted(value['number'] for value in values)}")
    return {"key": "gathered", "number": sum(value["number"] for value in values)}


@cache
def client() -> redis.Redis:
    return redis.Redis.from_url(os.environ["REDIS_URL"])


def run(text: str) -> None:
    client().rpush(RAN, text)


@app.task(name="results.double")
def double(message: dict[str, Any]) -> dict[str, Any]:
    run(f"double:{message['key']}:{message['number']}")
    return {**message, "number": 2 * message["number"]}


@app.task(name="results.as_text")
def as_text(values: Any) -> str:
    numbers = [value["number"] for value in values] if isinstance(values, list) else values["number"]
    run(f"as_text:{numbers}")
    return str(numbers)


@app.task(name="results.constant")
def constant(value: str) -> str:
    run(f"constant:{value}")
    return value


@app.task(name="results.on error")
def on_error(task_id: str) -> None:
    """The old form of an error callback: sent as a task."""
    run(f"on error:{task_id}")


@app.task(name="results.on error here", bind=False)
def on_error_here(request: Any, error: BaseException, trace: Any) -> None:
    """The new form: Celery calls it in the worker that saw the failure."""
    run(f"on error here:{request.id}:{error!r}")


@app.task(name="results.headers", bind=True)
def headers(self: Any, value: Any) -> dict[str, Any]:
    """Returns the root id, parent id and stamps that it received."""
    request = self.request
    return {"root": request.root_id, "parent": request.parent_id, "stamps": request.stamps}
