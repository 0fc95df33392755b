"""Where a computation's calls run: in the worker's loop one at a time, as coroutines, or in threads. Decided by its declaration."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Literal

from celery_partitions.model.errors import DeclarationError

#: `loop`: a plain function, called by the partition loop. `async`: a coroutine function. `threads`: a blocking function.
Executor = Literal["loop", "async", "threads"]

#: More calls than this in one process are of no use.
MAX_CONCURRENCY = 100_000


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling the function returns a coroutine. Also knows objects with an async `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def executor_of(name: str, function: Callable[..., Any], executor: object, concurrency: object, strict: object) -> Executor:
    """Check what a declaration says about its calls. Raises `DeclarationError` that says what to change."""
    if executor not in (None, "threads"):
        raise DeclarationError(
            f'computation {name!r}: executor={executor!r:.40} is not known. Use executor="threads" for a blocking function, or write an async def'
        )
    if executor is not None and is_async(function):
        raise DeclarationError(f'computation {name!r} is an async def, which needs no executor=. Remove executor="threads", or write a plain def')
    found: Executor = "async" if is_async(function) else "threads" if executor == "threads" else "loop"
    for option, value in (("concurrency", concurrency), ("strict", strict or None)):
        if value is not None and found == "loop":
            raise DeclarationError(
                f'computation {name!r}: {option}= needs an async def or executor="threads". A plain def runs one call at a time in each worker'
            )
    if concurrency is not None and (
        isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= MAX_CONCURRENCY
    ):
        raise DeclarationError(f"computation {name!r}: concurrency must be an integer from 1 to {MAX_CONCURRENCY:,}, not {concurrency!r:.40}")
    if not isinstance(strict, bool):
        raise DeclarationError(f"computation {name!r}: strict must be True or False, not {strict!r:.40}")
    return found


def call_and_wait(function: Callable[..., Any], arguments: list[Any]) -> Any:
    """Call a function in this thread. If it is async, run its coroutine to the end in an event loop of its own."""
    value = function(*arguments)
    return asyncio.run(value) if inspect.iscoroutine(value) else value
