"""The thread that keeps this worker's leases: renews them while the loop computes, and learns when the share changes."""

from __future__ import annotations

import logging
import random as system_random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

import redis

from celery_partitions.model.errors import SetupError, refusal_of
from celery_partitions.model.escaping import escape
from celery_partitions.model.topology import Topology
from celery_partitions.store.leases import (
    GRACE_SECONDS,
    RENEWALS_PER_LEASE,
    UNKNOWN_CODE,
    Share,
    balance,
    leases_of,
    release,
)
from celery_partitions.store.names import Names
from celery_partitions.store.resize import finish_resize, note_epoch
from celery_partitions.store.servers import connect_group
from celery_partitions.store.worker_code import Refusal, WorkerCode
from celery_partitions.worker.backoff import LONGEST_SECONDS, Backoff
from celery_partitions_config.settings import Settings

logger = logging.getLogger("celery.worker.partitions")

#: A worker gives its partitions up if its loop fails for this many leases while its lease keeper's connections work ...
PATIENCE_LEASES = 2
#: ... and for at least the time of one reply and this: the loop's longest wait, before and after it. A few lost replies are no reason.
PATIENCE_SECONDS = 2 * LONGEST_SECONDS
#: How often to look whether a resize is finished.
FINISH_SECONDS = 30.0


class Event(Protocol):
    """What the keeper needs of `threading.Event`."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...

    def wait(self, timeout: float | None = None) -> object: ...


class LeaseKeeper(threading.Thread):
    """Calls `on_share` with the worker's share after each renewal, in its own thread."""

    def __init__(
        self,
        settings: Settings,
        names: Names,
        topology: Topology,
        worker: str,
        pins: Sequence[str],
        on_share: Callable[[Share], None],
        introduce: Callable[[], None] = lambda: None,
        loop_fails: Callable[[], bool] = lambda: False,
        *,
        tasks: Callable[[], Iterable[str]] = tuple,
        lacks: Callable[[], Iterable[tuple[str, str]]] = tuple,
        client: redis.Redis | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = system_random.random,
        make_event: Callable[[], Event] = threading.Event,
        code: WorkerCode = UNKNOWN_CODE,
    ) -> None:
        super().__init__(name="lease-keeper", daemon=True)
        self.settings, self.names, self.topology, self.worker, self.pins = settings, names, topology, worker, pins
        self.on_share, self.code = on_share, code
        #: Called after each new connection: the server may have come back empty. Raises `SetupError` if it belongs to another group.
        self.introduce = introduce
        #: Whether the loop cannot work. Then the worker claims nothing new, and does not hold for long what it has.
        self.loop_fails = loop_fails
        #: The tasks that this worker knows, and (partition, task) for messages that wait for one that it does not know.
        self.tasks, self.lacks = tasks, lacks
        #: Not a member of the group: it has not started, or has given its partitions up.
        self._away = True
        self._patience_seconds = max(PATIENCE_LEASES * settings.lease_seconds, PATIENCE_SECONDS + settings.redis_timeout_seconds)
        #: Since when the loop fails while this thread's own connections work.
        self._failing_since: float | None = None
        # One silent server among several must not cost the leases on the others.
        patience = settings.lease_seconds / (RENEWALS_PER_LEASE + 1)
        self.client, self.clock = connect_group(settings, names.root, patience) if client is None else client, clock
        #: Set to make the thread end, and by the thread when it ends.
        self.ending, self.ended = make_event(), make_event()
        self._lost_since: float | None = None
        self._before: Share | None = None
        self._refused = ""
        self._faults: dict[str, str] = {}
        #: The epoch that Redis knows of this worker, and when to look whether a resize is finished.
        self._noted: int | None = None
        self._finish_at = 0.0
        #: The partitions whose states this worker's code cannot read.
        self._unreadable: dict[str, Refusal] = {}
        # No wait is longer than the time between two renewals, so that leases still valid when the server returns do not expire.
        self._backoff = Backoff(random, min(LONGEST_SECONDS, settings.lease_seconds / RENEWALS_PER_LEASE))

    def run(self) -> None:
        try:
            self.keep()
        finally:
            self.ended.set()

    def keep(self) -> None:
        """Keep the leases until `leave`."""
        while not self.ending.is_set():
            try:
                with self.client.pubsub(ignore_subscribe_messages=True) as changes:
                    changes.subscribe(self.names.changed)
                    self.introduce()
                    self._noted = None
                    while not self.ending.is_set():
                        share = self.balance() if self.may_hold() else self.step_back()
                        self.on_share(share)
                        self.listen(changes, share)
            except SetupError as error:
                self.on_share(Share({}, (), None))  # the server holds another group's data: this worker's leases mean nothing there
                self.say_refused(error)
                self.ending.wait(self._backoff.next_seconds())
            except (redis.RedisError, OSError) as error:
                self.say_lost(error)
                self.ending.wait(self._backoff.next_seconds())
            except Exception:
                logger.exception("partitions: internal error in the lease keeper; it continues")
                self.ending.wait(self._backoff.next_seconds())

    def may_hold(self) -> bool:
        """Whether this worker may hold partitions: its loop works, or has failed for a short time only."""
        if not self.loop_fails():
            self._away, self._failing_since = False, None
            return True
        now = self.clock()
        if self._failing_since is None:
            self._failing_since = now
        return not self._away and now - self._failing_since < self._patience_seconds

    def step_back(self) -> Share:
        """Release the partitions and leave the group, so that workers that can work take over. Without it, the lease would be renewed and
        the messages would wait."""
        if not self._away:
            self._away = True
            text = (
                "partitions: the loop has had no working connection for %.1f s, but the lease keeper has. This worker gives its partitions "
                "up until it gets one. Check the server's maxclients and this process's limit of open files"
            )
            logger.warning(text, self._patience_seconds)
            self.release_all()
        return Share({}, (), None)

    def balance(self) -> Share:
        share = balance(
            self.client,
            self.names,
            self.worker,
            lease_seconds=self.settings.lease_seconds,
            partitions=self.settings.partitions,
            pins=self.pins,
            isolate_messages=self.settings.batch_messages if self.settings.max_worker_crashes else 0,
            tasks=self.tasks(),
            lacks=self.lacks(),
            code=self.code,
            refused=self._unreadable,
            before=self._before,
        )
        self._before = share
        if share.topology is not None:
            self.follow(share.topology)
        if self._lost_since is not None:
            logger.warning("partitions: Redis answers the lease keeper again, after %.1f s", self.clock() - self._lost_since)
            self._lost_since = None
        self._backoff.worked()
        for partition, fault in share.faults.items():
            if self._faults.get(partition) != fault:
                logger.error("partition %s: cannot claim it (%s); retrying until it works", partition, fault)
        self._faults = dict(share.faults)
        self.say_unreadable(share)
        return share

    def follow(self, topology: Topology) -> None:
        """Note in Redis that this worker follows the topology. After a resize, look whether it is finished."""
        self.topology = topology
        if topology.epoch != self._noted:
            with suppress(redis.exceptions.OutOfMemoryError):
                note_epoch(self.client, self.names, self.worker, topology.epoch)
                self._noted = topology.epoch
        if topology.former is not None and self.clock() >= self._finish_at:
            self._finish_at = self.clock() + FINISH_SECONDS
            finish_resize(self.client, self.names, topology)

    def say_unreadable(self, share: Share) -> None:
        """Log once, for all partitions that became unreadable for the same reason."""
        new: dict[str, list[str]] = {}
        for partition, why in share.refused.items():
            if self._unreadable.get(partition) != why:
                new.setdefault(str(why), []).append(partition)
        for text, found in new.items():
            logger.error("partitions: this worker may not have partition %s: %s", ", ".join(found), escape(text))
        self._unreadable = dict(share.refused)

    def listen(self, changes: redis.client.PubSub, share: Share) -> None:
        """Wait until the leases must be renewed, another worker's lease expires, or a change is announced."""
        seconds = self.settings.lease_seconds / RENEWALS_PER_LEASE
        if share.next_end_seconds is not None:
            seconds = min(seconds, max(share.next_end_seconds, 0) + GRACE_SECONDS)
        until = self.clock() + seconds
        while not self.ending.is_set() and (left := until - self.clock()) > 0:
            if changes.get_message(timeout=left) is not None:
                # Changes often come in groups: handle them together.
                while changes.get_message(timeout=0) is not None:
                    pass
                return

    def say_lost(self, error: Exception) -> None:
        self._failing_since = None  # the server is away for both
        if self._lost_since is None and not self.ending.is_set():
            self._lost_since = self.clock()
            logger.warning("partitions: Redis does not answer the lease keeper (%s); retrying until it does", refusal_of(error))

    def say_refused(self, error: SetupError) -> None:
        if str(error) != self._refused:
            self._refused = str(error)
            logger.error("partitions: no partitions are claimed until this is fixed: %s", error)

    def wake(self) -> None:
        """Make the keeper check for changes immediately, by publishing a change itself."""
        with suppress(redis.RedisError, OSError):  # it checks again by itself after a third of a lease
            self.client.publish(self.names.changed, self.worker)

    def leave(self) -> None:
        """End the thread and release all leases and the membership, so that others take over immediately."""
        self.ending.set()
        self.wake()
        self.ended.wait(self.settings.redis_timeout_seconds)
        try:
            self.release_all()
        except (redis.RedisError, OSError) as error:
            logger.warning("partitions: cannot release the leases (%s); they expire by themselves", error)
        finally:
            self.client.close()

    def release_all(self) -> None:
        """Release all leases and the membership."""
        mine = leases_of(self.client, self.names, self.worker)
        release(self.client, self.names, self.worker, mine, leave=True)
