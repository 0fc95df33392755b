"""Batch computations of each kind, and others under the same keys. They record outside of the state what each call got."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import redis

from celery_partitions import Context, app, key_extractor, state_computation
from tests.support.applications.sequences import Sequence

__all__ = ["app"]

#: The list with the records, in the server and database of `REDIS_URL`.
GIVEN = "given"
FLUSH_EVERY = 5


@dataclass
class Page:
    key: str
    number: int
    #: "raises" in each attempt; "kills" the worker; "hangs" whatever interrupts it; "waits" until the list `go` has an element.
    trick: str = ""


@cache
def recorder() -> redis.Redis:
    return redis.Redis.from_url(os.environ["REDIS_URL"])


@key_extractor
def page_of(page: Page) -> str:
    return page.key


def apply(pages: list[Page], state: Sequence, context: Context) -> list[int]:
    recorder().rpush(GIVEN, f"{context.key} {' '.join(str(page.number) for page in pages)}")
    assert len(context.message_ids) == len(pages)
    state.numbers += [page.number for page in pages]
    for page in pages:
        if page.trick == "kills":
            os.kill(os.getpid(), 9)
        if page.trick == "raises":
            raise ValueError(f"page {page.number}")
        if page.trick == "huge":
            state.numbers.append("x" * 400_000)  # type: ignore[arg-type]
    return [page.number * 10 for page in pages]


@state_computation(name="index", state=Sequence, key=page_of, flush_every=FLUSH_EVERY, flush_interval=0.2)
def index(pages: list[Page], state: Sequence, context: Context) -> list[int]:
    return apply(pages, state, context)


@state_computation(name="index later", state=Sequence, key=page_of, flush_every=FLUSH_EVERY, flush_interval=0.2)
async def index_later(pages: list[Page], state: Sequence, context: Context) -> list[int]:
    while any(page.trick == "waits" for page in pages) and not recorder().llen("go"):
        await asyncio.sleep(0.01)
    return apply(pages, state, context)


@state_computation(name="index in threads", state=Sequence, key=page_of, flush_every=FLUSH_EVERY, flush_interval=0.2, executor="threads")
def index_in_threads(pages: list[Page], state: Sequence, context: Context) -> list[int]:
    return apply(pages, state, context)


@state_computation(name="index slowly", state=Sequence, key=page_of, flush_every=FLUSH_EVERY, flush_interval=3600)
def index_slowly(pages: list[Page], state: Sequence, context: Context) -> list[int]:
    return apply(pages, state, context)


@state_computation(name="index slowly later", state=Sequence, key=page_of, flush_every=FLUSH_EVERY, flush_interval=3600)
async def index_slowly_later(pages: list[Page], state: Sequence, context: Context) -> list[int]:
    return apply(pages, state, context)


@state_computation(name="index in time", state=Sequence, key=page_of, flush_every=FLUSH_EVERY, flush_interval=0.2, time_limit=0.3)
async def index_in_time(pages: list[Page], state: Sequence, context: Context) -> None:
    apply(pages, state, context)
    while any(page.trick == "hangs" for page in pages):
        with suppress(BaseException):
            await asyncio.sleep(60)


@state_computation(name="one page", state=Sequence, key=page_of)
def one_page(page: Page, state: Sequence) -> None:
    recorder().rpush(GIVEN, f"{page.key} one {page.number}")
    state.numbers.append(page.number)


@state_computation(name="one page later", state=Sequence, key=page_of)
async def one_page_later(page: Page, state: Sequence) -> None:
    recorder().rpush(GIVEN, f"{page.key} later {page.number}")
    state.numbers.append(page.number)
