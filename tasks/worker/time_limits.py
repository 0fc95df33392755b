"""Time limits of computations: raises an exception inside one that takes too long, or replaces the process if that does not end it.

The loop's thread runs the computation, and a watchdog thread reads the clock. The exception arrives between two Python
instructions of the computation: it ends a loop, but not a call that waits in C. In that case the process is replaced, and the next
owner counts the message as failed. Code that holds the interpreter lock stops the watchdog too: then the lease expires.
Source: `PyThreadState_SetAsyncExc` in the C API reference, "Initialization, Finalization, and Threads".
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_partitions.model.errors import TimeLimitExceeded

#: The exception arrives within a thread switch (5 ms). The rest is time for the computation to clean up.
INTERRUPT_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class _Call:
    """One computation under a limit."""

    about: Any
    seconds: float
    until: float
    #: The watchdog has decided to interrupt the call; once `sent` is true, the exception is on its way.
    claimed: bool = False
    sent: bool = False


class TimeLimits:
    """Made once per loop. Only the loop's thread may use `call`.

    The watchdog's thread calls `on_stuck(about, why)` for a computation that cannot be interrupted; it does not return.
    """

    def __init__(self, on_stuck: Callable[[Any, str], None]) -> None:
        self._on_stuck = on_stuck
        self._changed = threading.Condition()
        self._now: _Call | None = None
        self._watchdog: threading.Thread | None = None
        self._thread_id = 0

    def call(self, function: Callable[..., Any], arguments: list[Any], seconds: float, about: Any) -> Any:
        """Call the function and return its result. Raises `TimeLimitExceeded` inside the function after `seconds`."""
        call = _Call(about, seconds, time.monotonic() + seconds)
        try:
            self._watch(call)
            try:
                return function(*arguments)
            finally:
                self._now = None
                # The watchdog now makes no new decision. An exception that it already sent must arrive before this call ends.
                while call.claimed and not call.sent:
                    time.sleep(0)
                for _ in range(100 if call.sent else 0):
                    pass  # the exception may arrive at each turn; the function may already have received it
        except TimeLimitExceeded:
            self._now = None
            raise TimeLimitExceeded(over_the_limit(seconds)) from None

    def _watch(self, call: _Call) -> None:
        if self._watchdog is None:
            self._thread_id = threading.get_ident()
            self._watchdog = threading.Thread(target=self._run, name="partition-watchdog", daemon=True)
            self._watchdog.start()
        with self._changed:
            self._now = call
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while (call := self._now) is None:
                    self._changed.wait()
                left = call.until - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
            self._interrupt(call)

    def _interrupt(self, call: _Call) -> None:
        call.claimed = True
        if self._now is call:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread_id), ctypes.py_object(TimeLimitExceeded)
            )
        call.sent = True
        until = time.monotonic() + INTERRUPT_SECONDS
        while self._now is call and time.monotonic() < until:
            time.sleep(0.01)
        if self._now is call:
            self._on_stuck(call.about, over_the_limit(call.seconds))


def over_the_limit(seconds: float) -> str:
    """The error's text."""
    return f"took longer than its time limit of {seconds:g} s"
