"""Errors of code that works in the main thread only say so. Raised by the libraries themselves, in a thread."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from celery_partitions.model.thread_errors import advice

local = threading.local()
local.client = "made at import"


def wrong_sql(_: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(":memory:")) as own:
        own.execute("SELECT")


def no_event_loop(_: sqlite3.Connection) -> None:
    asyncio.new_event_loop().close()
    asyncio.get_event_loop()


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda connection: connection.execute("SELECT 1"), "open the connection on first use"),
        (lambda _: local.client, "fill a threading.local on first use"),
        (lambda _: signal.signal(signal.SIGALRM, lambda *_: None), "time_limit="),
        (no_event_loop, "async def"),
        (wrong_sql, ""),
        (lambda connection: connection.nothing, ""),  # type: ignore[attr-defined]
        (lambda _: int("x"), ""),
    ],
)
def test_advice(function: Callable[[sqlite3.Connection], Any], wanted: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection, ThreadPoolExecutor(1) as pool:
        error = pool.submit(function, connection).exception()
    assert error is not None
    assert wanted in advice(error) and bool(advice(error)) == bool(wanted)
