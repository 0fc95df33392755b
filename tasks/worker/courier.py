"""Sends what commits have for other servers, from the outboxes of this worker's partitions (`PARTITIONS_URL`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import redis

from celery_partitions.model.errors import describe
from celery_partitions.model.escaping import escape
from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.names import Names
from celery_partitions.store.outbox import Entry, Outbox, Received, keep, receive
from celery_partitions.store.replicas import Replicas
from celery_partitions.store.servers import server_of
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_state import State

logger = logging.getLogger("celery.worker.partitions")

#: The pause before entries are sent again to a target that did not take them.
REST_SECONDS = 0.5
#: How long entries that were sent stay in Redis. They are removed together, because that takes a round trip.
TRIM_SECONDS = 1.0
#: More of them are removed at once.
TRIM_ENTRIES = 500


class Courier:
    """Made once per loop and used by its thread."""

    def __init__(self, client: redis.Redis, names: Names, replicas: Replicas | None, clock: Callable[[], float]) -> None:
        self.client, self.names, self.replicas, self.clock = client, names, replicas, clock
        #: (source, target) → until when it rests, and the error that was logged last.
        self._resting: dict[tuple[str, str], float] = {}
        self._faults: dict[tuple[str, str], str] = {}
        self._trimmed_at = clock()

    def may_take(self, owned: OwnedPartition) -> bool:
        """Whether a partition may take messages: what it sent before is known, and not too much of it waits. Raises redis-py's errors."""
        outbox = owned.outbox
        if outbox is None:
            return True
        if not outbox.is_loaded:
            outbox.load(self.client, self.replicas)
        if outbox.is_full:
            self.deliver(owned, outbox)
        if outbox.is_full:
            owned.rest_until = self.clock() + REST_SECONDS
        return not outbox.is_full

    def has_brought_all(self, owned: OwnedPartition) -> bool:
        """Whether everything that a partition has sent has arrived, and is removed: replicas of the targets have it, if they must. Raises
        redis-py's errors."""
        outbox = owned.outbox
        if outbox is None:
            return True
        if not outbox.is_loaded:
            outbox.load(self.client, self.replicas)
        self.deliver(owned, outbox)
        if outbox.has_arrived:
            self.trim(owned, outbox)
        return outbox.is_loaded and outbox.is_empty

    def attend(self, partitions: Iterable[OwnedPartition]) -> float | None:
        """Send what waits, and remove what was sent. Returns the seconds until something is due; None: nothing waits."""
        now, waits = self.clock(), False
        trims = now - self._trimmed_at >= TRIM_SECONDS
        if trims:
            self._trimmed_at = now
        for owned in partitions:
            outbox = owned.outbox
            if outbox is None or not outbox.is_loaded or owned.state is State.COMMITTING:
                continue
            self.deliver(owned, outbox)
            if trims or outbox.sent > TRIM_ENTRIES:
                self.trim(owned, outbox)
            waits = waits or not outbox.is_empty
        return min(REST_SECONDS, TRIM_SECONDS) if waits else None

    def deliver(self, owned: OwnedPartition, outbox: Outbox) -> None:
        """Send a partition's entries to the targets that take them. Never raises for a server."""
        while (left := outbox.left) and self._deliver(owned, outbox) and outbox.order and outbox.left < left:
            pass

    def _deliver(self, owned: OwnedPartition, outbox: Outbox) -> bool:
        """Send the next entries. Returns whether the servers were asked."""
        partition, now = owned.partition, self.clock()
        entries = {target: some for target, some in outbox.waiting().items() if self._resting.get((partition, target), 0.0) <= now}
        if not entries:
            return False
        try:
            if not self.lasts(outbox):
                return False
            entries = {target: some for target, some in outbox.waiting().items() if target in entries}
            answers = receive(self.client, self.names, outbox.source, entries)
        except (redis.RedisError, OSError) as error:
            answers = dict.fromkeys(entries, error)
        for target, answer in answers.items():
            fault = self.fault(owned, outbox, target, answer, entries[target])
            if fault:
                self._resting[partition, target] = now + REST_SECONDS
                if fault != self._faults.get((partition, target)):
                    level = logging.WARNING if isinstance(answer, SERVER_ERRORS) else logging.ERROR
                    text = "partition %s: what it sends to %s waits: %s; retrying until it works"
                    logger.log(level, text, partition, target, escape(fault), extra=log_fields(partition))
                self._faults[partition, target] = fault
            elif self._faults.pop((partition, target), None):
                logger.warning("partition %s: what it sends to %s goes on", partition, target, extra=log_fields(partition))
        return True

    def lasts(self, outbox: Outbox) -> bool:
        """Whether what the outbox holds may be sent: replicas have it, or do not answer for too long. Raises redis-py's errors."""
        if self.replicas is None or outbox.lasts:
            return True
        server = server_of(self.client, outbox.key)
        if not self.replicas.may_look(server):
            return self.replicas.gave_up(server)
        # Read again: the server may have lost what this worker knows, or another one has taken its place.
        outbox.load(self.client, self.replicas)
        return outbox.lasts or self.replicas.gave_up(server)

    def fault(self, owned: OwnedPartition, outbox: Outbox, target: str, answer: Received | Exception, entries: list[Entry]) -> str:
        """Why a target has not taken the entries; "" if it has, or can go on."""
        if isinstance(answer, Exception):
            return describe(answer)
        if answer.status == "wrongtype":
            outbox.delivered(target, answer.tail)
            return f"Redis key {answer.culprit!r} has the wrong type, or this Redis user may not write it. Delete it, or fix the ACL"
        if answer.status == "ok" and outbox.knows(target, answer.tail):
            outbox.delivered(target, answer.tail)
            return ""
        try:
            if outbox.catch_up(self.client, self.replicas, target, answer.tail):
                if answer.status == "gap":
                    logger.warning("partition %s: %s has lost entries that it had applied; sending them again", owned.partition, target, extra=log_fields(owned.partition))
                return ""
        except (redis.RedisError, OSError) as error:
            return describe(error)
        what = "entries between them are missing" if answer.status == "gap" else "that is not an entry that this partition sent"
        source, key = outbox.source, self.names.received(target)
        return (
            f"the last entry that {target} applied is {answer.tail or 'none'}, the next one is {entries[0].tail} and follows {entries[0].before or 'none'}: "
            f"{what}. One of the two servers has lost data, probably in a failover, so messages between them may be lost or be sent twice. To go on "
            f"with the next entry: HSET {key} {source} '{entries[0].before}' on the server of {target}"
        )

    def trim(self, owned: OwnedPartition, outbox: Outbox) -> None:
        try:
            keep(self.client, self.names, outbox, self.replicas)
        except (redis.RedisError, OSError):
            return  # its server is away; another time
        try:
            outbox.trim(self.client, self.names.meta(owned.partition), owned.lease.token)
        except SERVER_ERRORS:
            outbox.forget()  # it may have been trimmed
            owned.forget_all()
