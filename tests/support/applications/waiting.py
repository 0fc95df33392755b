"""Computations that wait, as async functions and in threads. They record outside of the state when each call starts and ends.

The sleep here is the work of a computation. No test waits with it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import redis

from celery_partitions import Context, app, install, key_extractor, state_computation
from tests.support.applications.sequences import Sequence

if TYPE_CHECKING:
    import pytest

__all__ = ["app"]

#: The list with the records, in the server and database of `REDIS_URL`.
RECORDED = "recorded"


@dataclass
class Visit:
    """A message whose call takes `seconds`, and raises in the first `fails` attempts."""

    key: str
    number: int
    seconds: float = 0.0
    fails: int = 0
    #: Other behaviour of the call: see `visit`.
    trick: str = ""


@cache
def _recorder() -> redis.Redis:
    return redis.Redis.from_url(os.environ["REDIS_URL"])


@contextmanager
def recording_to(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls in this process record to this server."""
    monkeypatch.setenv("REDIS_URL", url)
    _recorder.cache_clear()
    yield
    _recorder().close()
    _recorder.cache_clear()


#: What calls in threads with the trick "blocks" wait for, in tests whose loop runs in their own process.
unblocked = threading.Event()


def say(what: str, visit: Visit) -> None:
    _recorder().rpush(RECORDED, f"{what} {visit.key} {visit.number}")


@key_extractor
def visited(visit: Visit) -> str:
    return visit.key


@state_computation(name="visit", state=Sequence, key=visited, concurrency=1000)
async def visit(message: Visit, state: Sequence, context: Context) -> None:
    say("begin", message)
    try:
        await asyncio.sleep(message.seconds)
        if message.trick == "swallows":
            await swallow()
        if message.trick == "kills":
            os.kill(os.getpid(), 9)
        state.numbers.append(message.number)
        if context.attempt <= message.fails:
            raise ValueError(f"try {context.attempt} of {message.key} {message.number}")
        if message.trick == "huge":
            state.numbers.append("x" * 400_000)  # type: ignore[arg-type]
        if message.trick == "unpicklable":
            state.numbers.append(lambda: None)  # type: ignore[arg-type]
    finally:
        say("end", message)


async def swallow() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


@state_computation(name="limited visit", state=Sequence, key=visited, time_limit=0.3)
async def limited_visit(message: Visit, state: Sequence, context: Context) -> None:
    await visit.__wrapped__(message, state, context)


@state_computation(name="strict visit", state=Sequence, key=visited, strict=True)
async def strict_visit(message: Visit, state: Sequence, context: Context) -> None:
    await visit.__wrapped__(message, state, context)


@state_computation(name="replied visit", state=Sequence, key=visited, reply=True, deduplicate=600)
async def replied_visit(message: Visit, state: Sequence, context: Context) -> int:
    await visit.__wrapped__(message, state, context)
    return message.number * 10


@state_computation(name="threaded visit", state=Sequence, key=visited, executor="threads", concurrency=8)
def threaded_visit(message: Visit, state: Sequence, context: Context) -> None:
    say("begin", message)
    try:
        time.sleep(message.seconds)
        if message.trick == "blocks":
            unblocked.wait()
        state.numbers.append(message.number)
        if context.attempt <= message.fails:
            raise ValueError("in a thread")
    finally:
        say("end", message)


#: While this Redis key is set, messages with the trick "broken" fail.
BROKEN = "broken"


def break_down(visit: Visit) -> None:
    if visit.trick == "broken" and _recorder().exists(BROKEN):
        raise ValueError(f"{visit.key} {visit.number} is broken")


@state_computation(name="own visit", state=Sequence, key=visited, holds="computation", on_error="park")
async def own_visit(message: Visit, state: Sequence, context: Context) -> None:
    """A message that fails holds up no other computation of its key."""
    await visit.__wrapped__(message, state, context)
    break_down(message)


@state_computation(name="own threaded visit", state=Sequence, key=visited, executor="threads", holds="computation", on_error="park")
def own_threaded_visit(message: Visit, state: Sequence, context: Context) -> None:
    threaded_visit.__wrapped__(message, state, context)
    break_down(message)


@state_computation(name="plain visit", state=Sequence, key=visited)
def plain_visit(message: Visit, state: Sequence) -> None:
    say("begin", message)
    time.sleep(message.seconds)
    state.numbers.append(message.number)
    say("end", message)


@asynccontextmanager
async def lifespan(worker: Any) -> AsyncIterator[dict[str, Any]]:
    """The resource is the event loop itself, so a computation can check that it runs in it."""
    _recorder().rpush("lifespans", f"began {worker.node}")
    if os.environ.get("LIFESPAN_FAILS"):
        raise OSError("no database")
    try:
        yield {"loop": asyncio.get_running_loop()}
    finally:
        _recorder().rpush("lifespans", "ended")


install(app, lifespan=lifespan)


@state_computation(name="resourceful visit", state=Sequence, key=visited)
async def resourceful_visit(message: Visit, state: Sequence, context: Context) -> None:
    assert context.resources["loop"] is asyncio.get_running_loop()
    state.numbers.append(message.number)


def overlaps(lines: Iterable[str]) -> list[str]:
    """The records of overlapping calls: a call that starts while another call of its key has not ended."""
    running: dict[str, str] = {}
    found = []
    for line in lines:
        what, key, number = line.split()
        if what == "begin":
            if key in running:
                found.append(f"{key}: {number} began while {running[key]} ran")
            running[key] = number
        elif running.get(key) == number:
            del running[key]
    return found


def begun(lines: Iterable[str]) -> dict[str, list[int]]:
    """The numbers of each key's calls, in the order of their starts."""
    found: dict[str, list[int]] = {}
    for line in lines:
        what, key, number = line.split()
        if what == "begin":
            found.setdefault(key, []).append(int(number))
    return found


def recorded(client: Any) -> list[str]:
    return [line.decode() for line in client.lrange(RECORDED, 0, -1)]
