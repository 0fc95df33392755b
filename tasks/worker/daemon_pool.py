"""A pool of daemon threads. Unlike those of `ThreadPoolExecutor`, a thread that hangs does not keep its process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any


class DaemonPool:
    """Starts a thread for a call if none is idle, up to `limit`. Only one thread may call `submit`."""

    def __init__(self, limit: int, name: str) -> None:
        self.limit, self.name = limit, name
        self._calls: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call the function in a thread. Calls beyond the limit wait for a free one."""
        future: Future[Any] = Future()
        if not self._idle.acquire(blocking=False) and self._threads < self.limit:
            self._threads += 1
            threading.Thread(target=self._run, name=f"{self.name}-{self._threads}", daemon=True).start()
        self._calls.put((future, function, arguments))
        return future

    def _run(self) -> None:
        while True:
            future, function, arguments = self._calls.get()
            if future.set_running_or_notify_cancel():
                try:
                    value = function(*arguments)
                except BaseException as error:
                    _give(future.set_exception, error)
                else:
                    _give(future.set_result, value)
            del future, function, arguments
            self._idle.release()


def _give(to: Callable[[Any], None], what: Any) -> None:
    with suppress(RuntimeError):  # the event loop that waits for it has ended
        to(what)
