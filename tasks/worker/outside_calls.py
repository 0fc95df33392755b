"""Makes the calls that run outside the loop's thread, each where it belongs: in the event loop, or in a thread of its computation's pool.

A call has its time limit, and what Celery provides around a task.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, cast

from celery_partitions.model.caller import Call
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import TimeLimitExceeded
from celery_partitions.model.items import Work
from celery_partitions.store.leases import Lease
from celery_partitions.worker.call_context import CallContext
from celery_partitions.worker.daemon_pool import DaemonPool
from celery_partitions.worker.time_limits import INTERRUPT_SECONDS, TimeLimits, over_the_limit

#: How often the watchdog looks for calls that ignored their time limit.
WATCH_SECONDS = 0.25

Hangs = Callable[[tuple[Lease, Work], str], None]


class OutsideCalls:
    """Made once per call thread, whose event loop uses it. `hangs`: called in the watchdog's thread for a call that ignored its time limit;
    it does not return. `concurrency`: the size of a computation's pool of threads. `is_current`: whether the event loop is executing the run
    of this partition and key, called in the watchdog's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hangs: Hangs,
        concurrency: Callable[[Computation], int],
        context: CallContext,
        is_current: Callable[[str, str], bool],
    ) -> None:
        self.hangs, self.concurrency, self.context, self.is_current = hangs, concurrency, context, is_current
        self._loop = loop
        self._pools: dict[str, DaemonPool] = {}
        self._limits = threading.local()
        #: Calls with a time limit, except in threads, which have watchdogs of their own: when the watchdog steps in, the limit, and for what.
        self._limited: dict[int, tuple[float, float, Lease, Work]] = {}

    def make(self, lease: Lease, call: Call) -> Awaitable[Any]:
        """Begin a call. What it returns or raises comes when it is awaited, except that a function may raise here."""
        computation, context = call.computation, self.context
        if computation.executor == "threads":
            return self._in_thread(computation, self._call_in_thread, lease, call)
        if computation.executor == "async":
            made = computation.function(*call.arguments) if computation.time_limit_seconds is None else self._in_time(lease, call)
            return context.awaited(call, made) if context.is_needed else cast(Awaitable[Any], made)
        if computation.time_limit_seconds is not None:
            return self._in_time(lease, call)
        return self._plain(call)

    async def _plain(self, call: Call) -> Any:
        return self._directly(call)

    def _directly(self, call: Call) -> Any:
        return self.context.around(call) if self.context.is_needed else call.computation.function(*call.arguments)

    async def _in_time(self, lease: Lease, call: Call) -> Any:
        seconds, watched = call.computation.time_limit_seconds, id(call)
        assert seconds is not None
        self._limited[watched] = time.monotonic() + seconds + INTERRUPT_SECONDS, seconds, lease, call.item
        try:
            try:
                async with asyncio.timeout(seconds) as scope:
                    if call.computation.executor == "async":
                        return await call.computation.function(*call.arguments)
                    return self._directly(call)
            except TimeoutError:
                if not scope.expired():
                    raise
                raise TimeLimitExceeded(over_the_limit(seconds)) from None
        finally:
            self._limited.pop(watched, None)

    async def _in_thread(self, computation: Computation, function: Callable[..., Any], *arguments: Any) -> Any:
        pool = self._pools.get(computation.name)
        if pool is None:
            pool = self._pools[computation.name] = DaemonPool(self.concurrency(computation), "partition-call")
        submitted = pool.submit(copy_context().run, function, *arguments)
        future = asyncio.wrap_future(submitted, loop=self._loop)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # A thread can't be cancelled. The key's next call must not begin before this one has ended. `future` would say that it was cancelled.
            if not submitted.cancel():
                await asyncio.wait((future,))
                with suppress(BaseException):
                    future.exception()
            raise

    # In a thread of a pool.

    def _call_in_thread(self, lease: Lease, call: Call) -> Any:
        with self.context.in_this_thread():
            seconds = call.computation.time_limit_seconds
            if seconds is None:
                return self.context.around_in_thread(call) if self.context.is_needed else call.computation.function(*call.arguments)
            limits = getattr(self._limits, "of_thread", None)
            if limits is None:  # each thread has its own watchdog, as the partition loop has
                limits = self._limits.of_thread = TimeLimits(self.hangs)
            function = self.context.around_in_thread if self.context.is_needed else _call
            return limits.call(function, [call], seconds, (lease, call.item))

    # In the watchdog's thread.

    def watch(self, is_alive: Callable[[], bool]) -> None:
        """Find calls that ignored their time limit: coroutines that swallow their cancellation, and code that blocks the event loop."""
        while is_alive():
            time.sleep(WATCH_SECONDS)
            now = time.monotonic()
            late = [one for one in list(self._limited.values()) if one[0] < now]
            if not late:
                continue
            _, seconds, lease, item = next((one for one in late if self.is_current(one[2].partition, one[3].key)), late[0])
            self.hangs((lease, item), over_the_limit(seconds))


def _call(call: Call) -> Any:
    return call.computation.function(*call.arguments)
