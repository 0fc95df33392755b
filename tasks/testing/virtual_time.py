"""Runs coroutines on a virtual clock: `await asyncio.sleep(60)` takes no time."""

from __future__ import annotations

import asyncio
import selectors
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


def call_on_virtual_time(call: Call) -> Any:
    """Make a call of a step in this thread. A coroutine runs to its end, with its sleeps and timeouts on a virtual clock."""
    if call.computation.executor != "async":
        return call_directly(call)
    loop = _VirtualLoop(_Skipping())
    try:
        return loop.run_until_complete(call.computation.function(*call.arguments))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
