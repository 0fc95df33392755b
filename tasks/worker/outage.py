"""An outage of the server: logged once when it starts and once when it ends, with growing waits between attempts."""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery_partitions.store.leases import Share
from celery_partitions.worker.backoff import Backoff

logger = logging.getLogger("celery.worker.partitions")


class Outage:
    """Made once per loop, which reports each error and each success to it. The lease keeper's thread reads `is_on`."""

    def __init__(self, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._clock = clock
        #: The loop cannot work: it has met an error since its last success, or has not reached the server yet.
        self.is_on = True
        self._since: float | None = None
        self._share: Share | None = None
        self._backoff = Backoff(random)

    def goes_on(self, error: Exception, share: Share, *, quietly: bool) -> float:
        """Record that the server failed while the worker had this share. Returns the seconds to wait before the next try."""
        self.is_on = True
        if self._since is None and not quietly:
            self._since, self._share = self._clock(), share
            kind = type(error).__name__
            logger.warning("partitions: Redis error (%s: %s); retrying until it works", kind, error)
        return self._backoff.next_seconds()

    def reached(self, share: Share) -> None:
        """The loop has all its connections. This ends the outage if the lease keeper brought a share since it began: a replica answers
        reads but renews no lease."""
        if share is not self._share:
            self.over()

    def over(self) -> None:
        """End the outage: something was written."""
        self.is_on = False
        if self._since is not None:
            logger.warning("partitions: Redis works again, after %.1f s", self._clock() - self._since)
            self._since = self._share = None
            self._backoff.worked()
