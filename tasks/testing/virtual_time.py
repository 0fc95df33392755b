"""Runs coroutines on a virtual clock: `await asyncio.sleep(60)` takes no time."""

from __future__ import annotations

import asyncio
import selectors
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from itertools import count
from typing import Any

from celery_partitions.model.caller import Call
from celery_partitions.model.step import call_directly


class _Skipping(selectors.DefaultSelector):
    """A selector that advances a clock where it would wait for a time. It still waits for sockets, threads and processes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        found = super().select(0)
        if not found:
            self.now += max(0.0, timeout)
        return found


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: _Skipping) -> None:
        super().__init__(clock)
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.now


@types.coroutine
def _watched(coroutine: Coroutine[Any, Any, Any], reached: Callable[[int], None]) -> Generator[Any, Any, Any]:
    """Run a coroutine, and call `reached` with the number of each await at which it waits."""
    value: Any = None
    error: BaseException | None = None
    for number in count(1):
        try:
            waits_for = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as end:
            return end.value
        reached(number)
        value = error = None
        try:
            value = yield waits_for
        except BaseException as raised:
            error = raised


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def call_on_virtual_time(call: Call, reached: Callable[[int], None] = lambda number: None) -> Any:
    """Make a call of a step in this thread. A coroutine runs to its end, with its sleeps and timeouts on a virtual clock. `reached`: called
    with the number of each await at which it waits."""
    if call.computation.executor != "async":
        return call_directly(call)
    loop = _VirtualLoop(_Skipping())
    try:
        return loop.run_until_complete(_as_coroutine(_watched(call.computation.function(*call.arguments), reached)))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
