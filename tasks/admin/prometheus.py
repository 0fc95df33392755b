"""What Prometheus's client asks for a group's numbers: they are read when it does, and it never waits long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from celery_partitions.admin.metrics import families
from celery_partitions.admin.overview import Overview, Readable, read_overview

logger = logging.getLogger(__name__)

#: What was read serves so long: several who ask at once cost one read.
FRESH_SECONDS = 1.0
#: Weighing the states makes the server walk over some of each.
WEIGH_SECONDS = 30.0
#: Nobody waits longer for a read, which goes on meanwhile. Longer than a read of 1000 partitions (0.2 s); shorter than what Prometheus
#: waits (10 s), and than Flower can stand still without being missed.
WAIT_SECONDS = 1.0


class GroupCollector(Collector):
    """Of one group. A group that can't be read, or not in time, is `celery_partitions_up` 0, and nothing else is told of it.

    Reads are made in a thread of their own, one at a time. `only`: asked at each read, of which partitions to tell.
    """

    def __init__(
        self, group: Readable, *, only: Callable[[], Collection[str]] | None = None, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self.group, self.only, self.wait_seconds = group, only, wait_seconds
        self._lock = threading.Lock()
        self._under_way: threading.Thread | None = None
        self._overview: Overview | None = None
        self._read_at = self._weighed_at = float("-inf")
        self._bytes: dict[str, int] = {}
        self._fault = ""

    def describe(self) -> Iterable[Metric]:
        """The names, without a read; asked when it is registered."""
        return families(self.group.names.group, None, {})

    def collect(self) -> Iterable[Metric]:
        return families(self.group.names.group, self.latest(), self._bytes)

    def latest(self) -> Overview | None:
        """The group as it is, or was a second ago; None where it can't be read in time."""
        with self._lock:
            if time.monotonic() - self._read_at <= FRESH_SECONDS:
                return self._overview
            if self._under_way is None or not self._under_way.is_alive():
                self._under_way = threading.Thread(target=self._read, name="partitions-metrics", daemon=True)
                self._under_way.start()
            under_way = self._under_way
        under_way.join(self.wait_seconds)
        return None if under_way.is_alive() else self._overview

    def _read(self) -> None:
        began = time.monotonic()
        weigh = began - self._weighed_at >= WEIGH_SECONDS
        only = None if self.only is None else self.only()
        try:
            found = read_overview(self.group, state_bytes=weigh, only=only)
        except Exception as error:  # whatever it is, who asks is told that it can't be read
            if str(error) != self._fault:  # said once, however long it lasts
                self._fault = str(error)
                logger.warning("metrics: the partitions can't be read: %s", error)
            self._overview = None
        else:
            self._fault, self._overview = "", found
            weighed = {partition.partition: partition.state_bytes for partition in found.partitions if partition.state_bytes is not None}
            if weigh:
                self._bytes, self._weighed_at = weighed, began
        self._read_at = time.monotonic()
