"""While the server does not answer as it should: said once when it begins and when it is over, with growing waits between tries."""

from __future__ import annotations

import logging
import random
import time

from celery_partitions.store.leases import Share
from celery_partitions.worker.backoff import Backoff

logger = logging.getLogger("celery.worker.partitions")


class Outage:
    """The loop's; told of each error and of what worked."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._share: Share | None = None
        self._backoff = Backoff(random.random)

    def goes_on(self, error: Exception, share: Share, *, quietly: bool) -> float:
        """The server failed now, under this share; how many seconds to wait before it is tried again."""
        if self._since is None and not quietly:
            self._since, self._share = time.monotonic(), share
            kind = type(error).__name__
            logger.warning("partitions: Redis does not answer as it should (%s: %s); trying until it does", kind, error)
        return self._backoff.next_seconds()

    def renewed(self, share: Share) -> None:
        """A lease was renewed since: over. (A server that only answers peeks, a replica, renews none.)"""
        if share is not self._share:
            self.over()

    def over(self) -> None:
        """Something was written."""
        if self._since is not None:
            logger.warning("partitions: going on, after %.1f s", time.monotonic() - self._since)
            self._since = None
            self._backoff.worked()
