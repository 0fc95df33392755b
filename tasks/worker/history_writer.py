"""Writes a worker's histories and its report: every ten seconds a point for each partition that it owns and each computation that it ran."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from hashlib import sha1
from importlib.metadata import version
from pathlib import Path

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.store.history import STEP_SECONDS, Latency, add_points
from celery_partitions.store.names import Names
from celery_partitions.store.telemetry import LATENCY_SECONDS, Histogram
from celery_partitions.store.worker_reports import WorkerReport, dump_report

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class HistoryWriter:
    """Only the loop's thread calls it. `write` raises redis-py's errors."""

    def __init__(
        self, worker: str, computations: Mapping[str, Computation], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.worker, self.clock = worker, clock
        #: Calls in flight by computation, and how many there may be. Set by the boot step if the app has computations that wait.
        self.in_flight: Callable[[], tuple[Mapping[str, int], Mapping[str, int]]] = lambda: ({}, {})
        #: Latencies of the last ten seconds, by partition and by computation.
        self.partitions: dict[str, Histogram] = {}
        self.computations: dict[str, Histogram] = {}
        #: Computations and fused stages that ran in this process, and how many messages it processed in the last ten seconds.
        self.ran: set[str] = set()
        self.processed = 0
        self._code, self._started = code_version(computations.values()), time.time()
        self._due = self._since = clock()

    def observe(self, partition: str, computation: str, seconds: float, times: int) -> None:
        """Note the latency of `times` messages."""
        for found, name in ((self.partitions, partition), (self.computations, computation)):
            if name not in found:
                found[name] = Histogram([0] * (len(LATENCY_SECONDS) + 1))
            found[name].observe(LATENCY_SECONDS, seconds, times)

    def seconds_until_due(self) -> float:
        return max(0.0, self._due - self.clock())

    def write(self, client: redis.Redis, names: Names, owned: Collection[str]) -> None:
        """Write a point for each owned partition, and for each computation that ran in this process."""
        now = self.clock()
        self._due = now + STEP_SECONDS["fine"]
        report = self._report(max(now - self._since, 0.001))
        add_points(
            client,
            names,
            {partition: _latency(self.partitions.get(partition)) for partition in owned},
            {name: _latency(self.computations.get(name)) for name in self.ran},
            worker=self.worker,
            report=dump_report(report),
        )
        self._since = now
        self.partitions, self.computations, self.processed = {}, {}, 0

    def _report(self, seconds: float) -> WorkerReport:
        in_flight, limits = self.in_flight()
        return WorkerReport(
            at=time.time(),
            started_at=self._started,
            host=socket.gethostname(),
            pid=os.getpid(),
            release=version("celery-partitions"),
            code=self._code,
            python=platform.python_version(),
            memory_bytes=memory_bytes(),
            sockets=open_sockets(),
            done_per_second=round(self.processed / seconds, 1),
            in_flight=in_flight,
            concurrency=limits,
        )


def code_version(computations: Iterable[Computation]) -> str:
    """A digest of the source files that the computations are in. A file that cannot be read counts by its name."""
    files = {computation.function.__code__.co_filename for computation in computations if hasattr(computation.function, "__code__")}
    digest = sha1(usedforsecurity=False)
    for name in sorted(files):
        try:
            digest.update(Path(name).read_bytes())
        except OSError:
            digest.update(name.encode("utf-8", "replace"))
    return digest.hexdigest()[:8]


def memory_bytes() -> int | None:
    """The memory that this process uses (resident); None if the system does not say."""
    if sys.platform != "linux":
        return None
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def open_sockets() -> int | None:
    """How many sockets this process has open; None if the system does not say."""
    count = 0
    try:
        for one in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                count += str(one.readlink()).startswith("socket:")
    except OSError:
        return None
    return count


def _latency(found: Histogram | None) -> Latency:
    if found is None or not found.count:
        return Latency()
    return Latency(found.quantile(LATENCY_SECONDS, 0.5), found.quantile(LATENCY_SECONDS, 0.99))
