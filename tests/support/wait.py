"""Waiting until something is true: the only place in the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T], timeout: float = 60.0, every: float = 0.02, message: str = ""
) -> T:
    """Call `predicate` until it returns a true value, and return that value.

    `timeout` and `every` are in seconds. The predicate is called at least once, and once more when the time is
    up, so that a slow machine does not cause a failure. Its exceptions propagate. Raises `AssertionError` with
    `message` and the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        last_call = time.monotonic() >= deadline
        value = predicate()
        if value:
            return value
        if last_call:
            raise AssertionError(f"{message or 'not true'} after {timeout} s; the last value was {value!r}")
        time.sleep(every)
