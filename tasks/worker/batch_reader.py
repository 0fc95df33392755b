"""Reads a batch of an owned partition: its messages, and what Redis holds of their keys. Commits nothing."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import cast

from celery_partitions.model.effects import READY
from celery_partitions.model.flushing import messages_to_read
from celery_partitions.model.halving import Halving
from celery_partitions.model.items import Item, Reading, Skipped, Work, condemned, read_batch
from celery_partitions.model.mailboxes import behind_lines
from celery_partitions.model.topology import Topology
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.parked_keys import read_mailbox, read_mailboxes
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.batch_loader import (
    drop_known_duplicates,
    load_due,
    load_parked,
    load_parked_of,
    load_states,
)
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.parts import LoopParts
from celery_partitions.worker.retries import MAX_TOGETHER, together

#: At most this many waiting tasks of a partition are reported to other workers.
MAX_LACKS = 20
#: If this many messages come during a hot key's turn, it ends, so that they are moved.
MANY_NEW = 100
#: During a resize two are used.
MAX_TOPOLOGIES = 2


class BatchReader:
    """Reads for a partition loop, in its thread. Every method may raise what redis-py raises."""

    def __init__(self, installation: Installation, parts: LoopParts) -> None:
        self.installation, self.settings = installation, installation.settings
        self.group, self.names, self.codec = installation.group, installation.group.names, installation.group.codec
        self.client, self.plain_tasks, self.revoked = parts.client, parts.observer.plain_tasks, parts.revoked
        #: By topology: a cache for `Reading.places`.
        self._places: dict[Topology, dict[str, int]] = {}

    def reading_of(self, owned: OwnedPartition) -> Reading:
        """How to read the partition's messages."""
        if owned.reading is None:
            if len(self._places) > MAX_TOPOLOGIES:
                self._places.clear()
            settings, topology = self.settings, owned.topology or self.group.topology
            owned.reading = Reading(
                self.installation.by_task, self.plain_tasks, owned.number, topology, settings.message_bytes, settings.batch_bytes,
                self.codec.load_value, unknown_waits=settings.deploy_wait_seconds > 0, places=self._places.setdefault(topology, {}),
                has_pipelines=any(one.roots for one in self.installation.computations.values()),
            )
        return owned.reading

    def parked(self, owned: OwnedPartition) -> None:
        """Load the partition's parked keys."""
        load_parked(self.client, self.names, owned)

    def due(self, owned: OwnedPartition) -> None:
        """Load the next parked keys that are due."""
        load_due(self.client, self.names, owned)

    def retries(self, owned: OwnedPartition, known_elsewhere: Container[str]) -> Batch | None:
        """The next messages of the parked keys whose retries are due; None if none is. `known_elsewhere`: the tasks that another worker knows."""
        limit = self.settings.batch_messages // 10
        keys = owned.due_keys(max(1, min(limit, MAX_TOGETHER)))
        if not keys:
            return None
        if len(keys) > 1:
            parts = self.mailboxes(owned, keys, limit // len(keys), known_elsewhere)
            if len(parts) > 1:
                return together(parts[0], parts)
        owned.alone.discard(keys[0])
        return self.mailbox(owned, keys[0], limit, known_elsewhere)

    def mailboxes(self, owned: OwnedPartition, keys: Sequence[str], limit: int, known_elsewhere: Container[str]) -> list[Batch]:
        """The next messages of parked keys, at most `limit` of each: of the first keys, if all would be too large or one has none."""
        parts: list[Batch] = []
        room = self.settings.batch_bytes
        for key, (messages, length) in read_mailboxes(self.client, self.names, owned.partition, keys, limit).items():
            room -= sum(map(len, messages))
            if not messages or room < 0:
                break
            parts.append(self.retry(owned, key, messages, length, known_elsewhere))
        return parts

    def mailbox(self, owned: OwnedPartition, key: str, limit: int, known_elsewhere: Container[str]) -> Batch:
        """A parked key's next messages."""
        record = owned.parked[key]
        if record.reason == READY:
            limit = min(limit, owned.turn_messages)
        limit = max(limit, messages_to_read(self.installation.computations, record.task), 1)
        return self.retry(owned, key, *read_mailbox(self.client, self.names, owned.partition, key, limit), known_elsewhere)

    def retry(self, owned: OwnedPartition, key: str, messages: list[bytes], length: int, known_elsewhere: Container[str]) -> Batch:
        """The batch of a parked key's next messages. `length`: how many its mailbox has."""
        record = owned.parked[key]
        owned.mailbox_lengths[key] = length
        waited_out = owned.has_waited_out(record, self.settings.deploy_wait_seconds)
        if record.reason == "unknown-task" and record.task in known_elsewhere:
            waited_out = False  # the partition goes to that worker, or its messages wait until it is free
        halving = Halving(record.size, record.suspects)
        waited, ready = record.reason == "rate", record.reason == READY
        return Batch(messages, key, record.attempt, length, waited_out=waited_out, waited=waited, halving=halving, ready=ready, others_wait=self.others_wait(owned, key) if ready else None)

    def others_wait(self, owned: OwnedPartition, key: str) -> Callable[[], bool]:
        """A function that looks at what has come to the queue since it was called last, and says whether it is for another key. Many messages
        count as such. No, while the key has had less time than the queue."""
        queue, reading, seen = self.names.queue(owned.partition), self.reading_of(owned), 0
        owed_until = owned.clock() - owned.retries_lead

        def look() -> bool:
            nonlocal seen
            if owned.clock() < owed_until:
                return False
            raws = cast(list[bytes], self.client.lrange(queue, -seen - MANY_NEW, -seen - 1))
            seen += len(raws)
            items = read_batch(raws[::-1], reading, now=owned.server_now(), revoked=())
            return len(raws) >= MANY_NEW or any(not isinstance(item, Work) or item.key != key for item in items)

        return look

    def items(self, owned: OwnedPartition, batch: Batch) -> list[Item]:
        """What the batch's messages are, and which of them wait behind others or are dropped."""
        reading = self.reading_of(owned)
        items = read_batch(batch.messages, reading, now=owned.server_now(), revoked=self.revoked)
        load_parked_of(self.client, self.names, owned, items)
        if owned.lines and batch.mailbox_of is None:
            items = behind_lines(items, owned.lines, reading.place)
        items = drop_known_duplicates(self.client, self.names, self.installation.computations, owned, batch, items)
        if batch.condemned is not None and not isinstance(items[0], Skipped):  # a duplicate is dropped, not a dead letter
            return [condemned(items[0], batch.condemned.error, batch.condemned.reason)]
        return items

    def states(self, owned: OwnedPartition, items: list[Item]) -> list[Item]:
        """Load states. Returns the items whose states are in memory: only the first ones if all states would be too large."""
        return load_states(self.client, self.names, self.codec, self.installation.computations, owned, items, self.settings.batch_state_bytes)

    def lacks(self, owned_partitions: Iterable[OwnedPartition]) -> list[tuple[str, str]]:
        """(partition, task) for messages that wait for a task that this worker does not know. Not all, if they are many."""
        pairs = {(owned.partition, task) for owned in owned_partitions for task in list(owned.lacks.values())[:MAX_LACKS]}
        known = self.installation.by_task
        return [pair for pair in pairs if pair[1] not in known and pair[1] not in self.plain_tasks]
