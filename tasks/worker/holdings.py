"""The partitions that a worker's loop holds: opens those of its share, closes lost ones, and releases those beyond it."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import redis

from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.leases import Lease, Share, release
from celery_partitions.store.outbox import Outbox
from celery_partitions.worker.isolation import Withdrawal
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_state import Event

if TYPE_CHECKING:
    from celery_partitions.worker.loop import PartitionLoop

logger = logging.getLogger("celery.worker.partitions")


class Holdings:
    """Made once per loop and used by its thread."""

    def __init__(self, loop: PartitionLoop) -> None:
        self.loop = loop
        #: What the lease keeper passed last. It replaces it in its own thread.
        self.share = self._followed = Share({}, (), None)
        #: Partitions and tokens that were closed: a share that still names them is older.
        self.gone: set[tuple[str, int]] = set()
        #: What could not be taken back, because the server did not answer.
        self._withdrawals: list[Withdrawal] = []

    def take_up_share(self) -> None:
        """Open partitions with new leases, close lost ones, and release those beyond the share."""
        loop, share = self.loop, self.share
        if share is self._followed:
            return
        self._withdraw()  # the lease keeper's new share came from the server: it answers again
        loop.commits.settle()
        if share.topology is not None:
            loop.resizing.follow(share.topology)
        held_before = set(loop.owned_partitions)
        held = {partition: token for partition, token in share.owned.items() if (partition, token) not in self.gone}
        for owned in list(loop.owned_partitions.values()):
            if held.get(owned.partition) != owned.lease.token:
                self.withdraw_crash(owned)
                self.close(owned)
        going = share.surplus(self.gone)
        surplus = going if loop.calls is None else loop.calls.wound_down(going)
        if surplus:
            for partition, token in surplus.items():
                held.pop(partition, None)
                self.gone.add((partition, token))
                if partition in loop.owned_partitions:
                    self.close(loop.owned_partitions[partition])
            release(loop.client, loop.names, loop.worker, surplus)
        for partition, token in held.items():
            if partition not in loop.owned_partitions:
                owned = loop.owned_partitions[partition] = OwnedPartition(Lease(partition, token), loop.clock.monotonic)
                if loop.courier is not None:
                    owned.outbox = Outbox.of_partition(loop.names, partition)
                    owned.outbox.order = loop.resizing.order
        for partition, owned in loop.owned_partitions.items():
            if partition in share.with_inbox and not owned.lease.inbox:
                owned.forget_all()  # it works on its inbox first
            owned.notify(share.edit_versions.get(partition, 0), partition in share.paused)
        if share.policies != self._followed.policies:
            loop.runner.follow(share.policies)
            for owned in loop.owned_partitions.values():
                owned.retry_limited()
        if set(loop.owned_partitions) != held_before:
            in_order = sorted(loop.owned_partitions, key=lambda partition: (len(partition), partition))  # 2 before 10
            logger.info("partitions held: %s", ", ".join(map(loop.names.queue_name, in_order)) or "none")
        if len(surplus) == len(going):  # else look again: calls are in flight
            self._followed = share

    def close(self, owned: OwnedPartition) -> None:
        """Stop processing this partition under this token. Writes nothing."""
        owned.on(Event.CLOSE)
        self.gone.add((owned.partition, owned.lease.token))
        self.loop.owned_partitions.pop(owned.partition, None)
        if self.loop.calls is not None:
            self.loop.calls.in_flight.drop_all(owned)
        self.loop.waiting.drop(owned.partition)

    def lose(self, owned: OwnedPartition) -> None:
        """Close a partition that another worker has taken over."""
        self.loop.observer.fenced(owned.partition)
        self.withdraw_crash(owned)
        self.close(owned)
        self.loop.wake_keeper()

    def withdraw_crash(self, owned: OwnedPartition) -> None:
        """The lease is lost, but this worker is alive: no message has killed it. If the server does not answer, this is tried again with the next
        share of the lease keeper; not where there are several servers, because the others' partitions would wait."""
        began = math.inf if owned.calls is None else owned.calls.suspects_began
        stalled = owned.stalled or self.loop.stalls.stalled_since(began, self.loop.settings.lease_seconds)
        withdrawal = Withdrawal.of(owned, stalled=stalled)
        if withdrawal.digests:
            self._withdrawals.append(withdrawal)
            self._withdraw()

    def _withdraw(self) -> None:
        while self._withdrawals:
            try:
                self._withdrawals[0].make(self.loop.client, self.loop.names)
            except SERVER_ERRORS:
                if not self.loop.names.is_spread:
                    return
            except redis.ResponseError:
                pass
            self._withdrawals.pop(0)
