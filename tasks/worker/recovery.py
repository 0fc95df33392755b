"""What a worker does after an error: search for the message at fault, or wait and retry. Each error is logged once.

An outage of the server is logged when it starts and when it ends. Its waits grow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import redis

from celery_partitions.model.errors import describe, refusal_of
from celery_partitions.model.outcome import Outcome
from celery_partitions.runtime.peer import NotDelivered
from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.commits import CommitTooLarge
from celery_partitions.store.leases import Share
from celery_partitions.worker.backoff import Backoff
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.unwritable import narrow

if TYPE_CHECKING:
    from celery_partitions.worker.parts import Clock

logger = logging.getLogger("celery.worker.partitions")

#: The wait after an error of one partition, or of the loop itself. Shorter than a lease.
REST_SECONDS = 0.5
#: How the errors begin that a server answers to every write: a full disk, too few replicas.
_OF_THE_SERVER = ("MISCONF", "NOREPLICAS")
#: The time between two log lines about such errors.
LOG_SECONDS = 60.0


class Recovery:
    """Made once per loop, which reports each error and each success to it. The lease keeper's thread reads `is_on`."""

    def __init__(self, clock: Clock, random: Callable[[], float]) -> None:
        self.clock = clock
        #: The loop cannot work: it has met an error since its last success, or has not reached the server yet.
        self.is_on = True
        #: When the outage began, and the worker's share then.
        self._since: float | None = None
        self._share: Share | None = None
        self._backoff = Backoff(random)
        #: When a refusal to write, of the whole server, was logged.
        self._refused_at: float | None = None

    def of_batch(self, owned: OwnedPartition, batch: Batch | None, outcome: Outcome | None, error: Exception) -> None:
        """After the error of a batch: take fewer messages, to find the one whose outcome cannot be written; or wait."""
        searching = owned.is_searching
        if batch is None or not narrow(owned, batch, outcome, error):
            self.of_partition(owned, error)
        elif not searching:
            text = "partition %s: cannot write the outcome of a batch (%s); the message that causes this becomes a dead letter"
            known = isinstance(error, redis.RedisError | CommitTooLarge)
            logger.warning(text, owned.partition, describe(error), exc_info=not known, extra=log_fields(owned.partition))

    def of_partition(self, owned: OwnedPartition, error: Exception) -> None:
        """After an error of one partition: reload it from Redis a little later."""
        owned.forget_all()
        seconds = error.rest_seconds if isinstance(error, NotDelivered) else REST_SECONDS
        owned.rest_until = self.clock.monotonic() + seconds
        fault = refusal_of(error)
        if fault.startswith(_OF_THE_SERVER):
            now = self.clock.monotonic()
            if self._refused_at is None or now - self._refused_at > LOG_SECONDS:
                self._refused_at = now
                logger.error("partitions: Redis refuses to write (%s); retrying until it works", fault)
        elif fault != owned.fault:  # log it once, however long it lasts
            owned.fault = fault
            known = isinstance(error, redis.RedisError | NotDelivered)
            text = "partition %s: %s; retrying until it works"
            level = logging.WARNING if isinstance(error, SERVER_ERRORS) else logging.ERROR
            logger.log(level, text, owned.partition, fault, exc_info=not known, extra=log_fields(owned.partition))

    def of_key(self, owned: OwnedPartition, culprit: str) -> None:
        """After a commit that was refused because of one Redis key: reload the partition a little later."""
        text = "partition %s: Redis key %s has the wrong type, or this Redis user may not write it. Delete it, or fix the ACL"
        logger.error(text, owned.partition, culprit, extra=log_fields(owned.partition))
        owned.forget_all()
        owned.rest_until = self.clock.monotonic() + REST_SECONDS

    def of_server(self, error: Exception, share: Share, *, quietly: bool, wait: bool) -> None:
        """After a server error: log it once per outage, and wait a little longer each time. `share`: the newest one."""
        self.is_on = True
        if self._since is None and not quietly:
            self._since, self._share = self.clock.monotonic(), share
            kind = type(error).__name__
            logger.warning("partitions: Redis error (%s: %s); retrying until it works", kind, refusal_of(error))
        seconds = self._backoff.next_seconds()
        if wait:
            self.clock.sleep(seconds)

    def of_loop(self) -> None:
        """After an error that neither the server nor a partition caused. Called while it is handled."""
        logger.exception("partitions: internal error in the loop; it continues")
        self.clock.sleep(REST_SECONDS)

    def reached(self, share: Share) -> None:
        """After the loop got all its connections. This ends the outage if the lease keeper brought a share since it began: a replica answers
        reads but renews no lease."""
        if share is not self._share:
            self.written()

    def written(self) -> None:
        """After a commit was written: the outage is over."""
        self.is_on = False
        if self._since is not None:
            logger.warning("partitions: Redis works again, after %.1f s", self.clock.monotonic() - self._since)
            self._since = self._share = None
            self._backoff.worked()
