"""Computations with rate limits. They record outside of the state when each call starts."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from functools import cache

import redis

from celery_partitions import app, key_extractor, state_computation
from tests.support.applications.sequences import Sequence

__all__ = ["app"]

#: The list with the records, in the server and database of `REDIS_URL`.
STARTED = "started"
#: Calls per second, of a key and of a host.
KEY_RATE, HOST_RATE = 20, 40


@dataclass
class Request:
    key: str
    number: int
    host: str = "one"


@cache
def recorder() -> redis.Redis:
    return redis.Redis.from_url(os.environ["REDIS_URL"])


def note(bucket: str, at: float) -> None:
    recorder().rpush(STARTED, f"{bucket} {at!r}")


@key_extractor
def requested(request: Request) -> str:
    return request.key


@state_computation(name="limited per key", state=Sequence, key=requested, rate_limit=f"{KEY_RATE}/s")
def per_key(request: Request, state: Sequence) -> None:
    note(f"key:{request.key}", time.time())
    state.numbers.append(request.number)


@state_computation(name="limited per host", state=Sequence, key=requested, rate_limit=f"{HOST_RATE}/s", rate_limit_key=lambda request: request.host)
async def per_host(request: Request, state: Sequence) -> None:
    note(f"host:{request.host}", time.time())
    await asyncio.sleep(0.05)
    state.numbers.append(request.number)
