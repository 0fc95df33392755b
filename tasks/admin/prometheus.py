"""The Prometheus collector of a group: it reads the group when it is scraped, and never blocks a scrape for long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from celery_partitions.admin.attention import Attention, counts
from celery_partitions.admin.attention_facts import Attended, Ends
from celery_partitions.admin.attention_watch import AttentionWatch
from celery_partitions.admin.metrics import NO_WHOLE, Whole, families
from celery_partitions.admin.overview import Overview, Readable, read_overview
from celery_partitions.admin.workers import read_workers
from celery_partitions.store.measurements import read_computations, read_pushed

logger = logging.getLogger(__name__)

#: A result is reused for this long, so that simultaneous scrapes cost one read.
FRESH_SECONDS = 1.0
#: Measuring the states' size makes the server sample each hash, so it is done this rarely.
WEIGH_SECONDS = 30.0
#: A scrape waits this long for a read, which then continues in its thread. It must be longer than a read of 1000 partitions (0.2 s) and
#: shorter than Prometheus's timeout (10 s) and a stall of Flower that users would notice.
WAIT_SECONDS = 1.0
#: Attention costs several reads, and Prometheus may scrape every second.
ATTENTION_SECONDS = 10.0


def read_whole(group: Readable, attention: Sequence[Attention]) -> Whole:
    """What concerns the whole group. Raises redis-py's errors."""
    calls: dict[str, tuple[int, int]] = {}
    for report in (worker.report for worker in read_workers(group.client, group.names)):
        if report is None:
            continue
        for name, limit in report.concurrency.items():
            used, room = calls.get(name, (0, 0))
            calls[name] = (used + report.in_flight.get(name, 0), room + limit)
    return Whole(counts(attention), read_computations(group.client, group.names), calls, read_pushed(group.client, group.names))


class GroupCollector(Collector):
    """Collects one group's metrics. If the group cannot be read in time, `celery_partitions_up` is 0 and no other metric is exported.

    Reads run in a thread of their own, one at a time. `only` is called at each read and names the partitions to export.
    """

    def __init__(
        self,
        group: Attended,
        *,
        only: Callable[[], Collection[str]] | None = None,
        ends: Callable[[], Ends] = Ends,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self.group, self.only, self.wait_seconds = group, only, wait_seconds
        self.attention = None if only is not None else AttentionWatch(group, ends, fresh_seconds=ATTENTION_SECONDS)
        self._whole: Whole | None = None if only is not None else NO_WHOLE
        self._lock = threading.Lock()
        self._read_thread: threading.Thread | None = None
        self._overview: Overview | None = None
        self._read_at = self._weighed_at = float("-inf")
        self._bytes: dict[str, int] = {}
        self._fault = ""

    def describe(self) -> Iterable[Metric]:
        """The metrics' names, without a read. Called when the collector is registered."""
        return families(self.group.names.group, None, {}, self._whole)

    def collect(self) -> Iterable[Metric]:
        overview = self.latest()
        return families(self.group.names.group, overview, self._bytes, self._whole)

    def latest(self) -> Overview | None:
        """The group as it was at most a second ago; None if it cannot be read in time."""
        with self._lock:
            if time.monotonic() - self._read_at <= FRESH_SECONDS:
                return self._overview
            if self._read_thread is None or not self._read_thread.is_alive():
                self._read_thread = threading.Thread(target=self._read, name="partitions-metrics", daemon=True)
                self._read_thread.start()
            read_thread = self._read_thread
        read_thread.join(self.wait_seconds)
        return None if read_thread.is_alive() else self._overview

    def _read(self) -> None:
        began = time.monotonic()
        weigh = began - self._weighed_at >= WEIGH_SECONDS
        only = None if self.only is None else self.only()
        try:
            found = read_overview(self.group, state_bytes=weigh, only=only)
            if self.attention is not None:
                self._whole = read_whole(self.group, self.attention.look(found))
        except Exception as error:  # for any error, the scrape reports the group as down
            if str(error) != self._fault:  # logged once, however long it lasts
                self._fault = str(error)
                logger.warning("metrics: cannot read the partitions, celery_partitions_up is 0: %s", error)
            self._overview = None
        else:
            self._fault, self._overview = "", found
            weighed = {partition.partition: partition.state_bytes for partition in found.partitions if partition.state_bytes is not None}
            if weigh:
                self._bytes, self._weighed_at = weighed, began
        self._read_at = time.monotonic()
