"""Ours: computations with rate limits, which note outside of Redis when each call starts. `celery -A limited worker`."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

from celery_partitions import app, key_extractor, state_computation
from tests.benchmarks.rates import BURSTS, RATES

__all__ = ["COMPUTATIONS", "app"]

#: The file to which each call writes a line when it starts.
STARTS = os.environ.get("STARTS_FILE")
starts = os.open(STARTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if STARTS else None


@dataclass
class Request:
    key: str


class Count:
    """The state of one key."""

    calls = 0


@key_extractor
def key_of(request: Request) -> str:
    return request.key


def note(bucket: str) -> None:
    if starts is not None:
        os.write(starts, f"{time.monotonic()} {bucket}\n".encode())


@state_computation("limited together", state=Count, key=key_of, rate_limit=RATES["shared"], burst=BURSTS["shared"], rate_limit_key=lambda _: "all")
async def shared(request: Request, state: Count) -> None:
    note("shared")
    await asyncio.sleep(0.01)
    state.calls += 1


@state_computation("limited by key", state=Count, key=key_of, rate_limit=RATES["per-key"])
def per_key(request: Request, state: Count) -> None:
    note(request.key)
    state.calls += 1


COMPUTATIONS = {"shared": shared, "per-key": per_key}
