"""What the engine's modules find instead of the machine's clock, chance, sockets and events, while a schedule runs.

Nothing of the engine is replaced: only what it imports from outside, by name, in its own modules.
"""

from __future__ import annotations

import random
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

from celery_partitions.store.client import connect as connect_for_real
from tests.simulation import network
from tests.simulation.world import world


class Time:
    """The world's time; each process has a monotonic clock of its own."""

    def time(self) -> float:
        return world().now

    def monotonic(self) -> float:
        here = world()
        thread = here.current()
        return here.now + (thread.process.clock_offset if thread is not None else 0.0)

    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        world().wait(None, world().now + seconds)


class Random:
    """The schedule's own chance."""

    def __getattr__(self, name: str) -> Any:
        return getattr(world().random, name)


class Event:
    """`threading.Event` for greenlets."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def wait(self, timeout: float | None = None) -> bool:
        world().wait(self.is_set, None if timeout is None else world().now + timeout)
        return self._set


#: What a module of the engine holds → what it finds instead.
_TIME, _RANDOM = Time(), Random()
_INSTEAD: list[tuple[object, object]] = [
    (time, _TIME),
    (time.monotonic, _TIME.monotonic),
    (time.time, _TIME.time),
    (time.perf_counter, _TIME.perf_counter),
    (time.sleep, _TIME.sleep),
    (random, _RANDOM),
    (connect_for_real, network.connect),
]
#: The same, of modules whose other functions are used elsewhere too.
_ONLY_IN: dict[str, list[tuple[object, object]]] = {
    "celery_partitions.worker.blocking_read": [
        (selectors, SimpleNamespace(DefaultSelector=network.Selector, EVENT_READ=selectors.EVENT_READ)),
        (socket, SimpleNamespace(socketpair=network.socketpair)),
    ],
    "celery_partitions.worker.lease_keeper": [(threading, SimpleNamespace(Event=Event, Thread=threading.Thread))],
}


@cache
def _changes() -> list[tuple[Any, str, object, object]]:
    """(module, attribute, what it is, what it becomes) for every module of the engine that is imported."""
    changes = []
    for name, module in list(sys.modules.items()):
        if name.startswith("celery_partitions.") and name != connect_for_real.__module__:
            for attribute, value in vars(module).items():
                for real, simulated in _INSTEAD + _ONLY_IN.get(name, []):
                    if value is real:
                        changes.append((module, attribute, value, simulated))
    return changes


@contextmanager
def virtual() -> Iterator[None]:
    """The engine lives in the current world."""
    for module, attribute, _, simulated in _changes():
        setattr(module, attribute, simulated)
    try:
        yield
    finally:
        for module, attribute, real, _ in _changes():
            setattr(module, attribute, real)
