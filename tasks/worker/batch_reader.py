"""Reads a batch of an owned partition: its messages, and what Redis holds of their keys: which are parked, ids seen before, and states that are
not in memory. Commits nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Sequence
from typing import cast

import redis

from celery_partitions.model.deduplication import drop_duplicates, ids_to_look_for
from celery_partitions.model.effects import READY
from celery_partitions.model.flushing import messages_to_read
from celery_partitions.model.halving import Halving
from celery_partitions.model.items import Item, Reading, Skipped, Work, condemned, read_batch
from celery_partitions.model.mailboxes import behind_lines, waits_in
from celery_partitions.model.topology import Topology
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.deduplication import read_seen_ids
from celery_partitions.store.names import Names
from celery_partitions.store.parked_keys import (
    ParkedKeys,
    look_up_parked,
    read_due,
    read_mailbox,
    read_mailboxes,
    read_parked,
)
from celery_partitions.store.states import is_wrong_type, load_slots, state_sizes
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import DUE_PAGE, OwnedPartition
from celery_partitions.worker.parts import LoopParts
from celery_partitions.worker.retries import MAX_TOGETHER, together

#: At most this many waiting tasks of a partition are reported to other workers.
MAX_LACKS = 20
#: If this many messages come during a hot key's turn, it ends, so that they are moved.
MANY_NEW = 100
#: During a resize two are used.
MAX_TOPOLOGIES = 2
#: Up to this many states are read without asking for their sizes first.
FEW_KEYS = 8
#: An unread state is assumed to be at most this many times as large as the largest state read so far.
UNSEEN_MAY_BE_LARGER = 16
#: A message of a pipeline rarely passes more stateful stages before its next hop. Sizes are added up only above this bound.
MAX_STATES_OF_A_MESSAGE = 4
#: More parked keys than this are not all loaded. Loading this many takes about 0.1 s.
MAX_LOADED = 5000

logger = logging.getLogger("celery.worker.partitions")


class BatchReader:
    """Reads for a partition loop, in its thread. Every method may raise what redis-py raises."""

    def __init__(self, installation: Installation, parts: LoopParts) -> None:
        self.installation, self.settings = installation, installation.settings
        self.group, self.names, self.codec = installation.group, installation.group.names, installation.group.codec
        self.client, self.plain_tasks, self.revoked = parts.client, parts.observer.plain_tasks, parts.revoked
        #: By topology: a cache for `Reading.places`.
        self._places: dict[Topology, dict[str, int]] = {}
        self._deduplicates = any(one.deduplicate_seconds is not None for one in installation.computations.values())

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
        """Load the partition's parked keys, or only those with calls in flight, if all would be too many. If their Redis key has the wrong type,
        log that and continue with none."""
        are_all = True
        try:
            found = read_parked(self.client, self.names, owned.partition, MAX_LOADED)
            if found is None:
                runs = () if owned.calls is None else [key for key, run in owned.calls.runs.items() if not run.from_queue]
                found, are_all = look_up_parked(self.client, self.names, owned.partition, runs), False
        except redis.ResponseError as error:
            if not is_wrong_type(error):  # e.g. BUSY: without the parked keys, later messages of a key would overtake waiting ones
                raise
            text = "partition %s: cannot read its parked keys: %s. Delete or repair that Redis key"
            logger.error(text, owned.partition, error, extra=log_fields(owned.partition))  # noqa: TRY400
            found = ParkedKeys({}, {})
        owned.take_parked(*found, are_all=are_all)

    def due(self, owned: OwnedPartition) -> None:
        """Load the next parked keys that are due, because not all parked keys are in memory."""
        found, owned.unread_due = read_due(self.client, self.names, owned.partition, owned.unread_due, owned.parked, DUE_PAGE)
        owned.learn_parked(*found)

    def retries(self, owned: OwnedPartition, known_elsewhere: Container[str]) -> Batch:
        """The next messages of the parked keys whose retries are due. `known_elsewhere`: the tasks that another worker knows."""
        limit = self.settings.batch_messages // 10
        keys = owned.due_keys(max(1, min(limit, MAX_TOGETHER)))
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
        if not owned.knows_all_parked:
            load_parked_of(self.client, self.names, owned, items)
        if owned.lines and batch.mailbox_of is None:
            items = behind_lines(items, owned.lines, reading.place)
        items = self.without_duplicates(owned, batch, items)
        if batch.condemned is not None and not isinstance(items[0], Skipped):  # a duplicate is dropped, not a dead letter
            return [condemned(items[0], batch.condemned.error, batch.condemned.reason)]
        return items

    def states(self, owned: OwnedPartition, items: list[Item]) -> list[Item]:
        """Load the missing states in at most one round trip. Returns the items to step: the first ones whose states are not too large.

        If states of this partition may be large, Redis is first asked for their sizes.
        """
        cache, max_bytes = owned.cache, self.settings.batch_state_bytes
        missing = cache.missing(items)
        count = sum(map(len, missing.values()))
        if count > FEW_KEYS and (cache.largest is None or count * cache.largest * UNSEEN_MAY_BE_LARGER > max_bytes):
            items = items[: cache.fitting(items, state_sizes(self.client, self.names, owned.partition, missing), max_bytes)]
            missing = cache.missing(items)
        if missing:
            wanted = {name: (self.installation.computations[name], keys) for name, keys in missing.items()}
            cache.add(load_slots(self.client, self.names, self.codec, owned.partition, wanted))
        if cache.largest and len(items) * cache.largest > max_bytes // MAX_STATES_OF_A_MESSAGE:
            items = items[: cache.fitting(items, {}, max_bytes)]
        return items

    def without_duplicates(self, owned: OwnedPartition, batch: Batch, items: list[Item]) -> list[Item]:
        """Turn duplicates for computations with `deduplicate` into skipped items, and return all items.

        `owned.seen` keeps the ids found, for the commit. Messages of a key's mailbox were checked when they were in the queue.
        """
        owned.seen = {}
        if (batch.mailbox_of is not None and batch.line is None) or not self._deduplicates:
            return items
        wanted = {name: (self.installation.computations[name], ids) for name, ids in ids_to_look_for(items).items()}
        if not wanted:
            return items
        owned.seen = read_seen_ids(self.client, self.names, owned.partition, wanted)
        return drop_duplicates(items, {name: one.ids for name, one in owned.seen.items()})

    def lacks(self, owned_partitions: Iterable[OwnedPartition]) -> list[tuple[str, str]]:
        """(partition, task) for messages that wait for a task that this worker does not know. Not all, if they are many."""
        pairs = {(owned.partition, task) for owned in owned_partitions for task in list(owned.lacks.values())[:MAX_LACKS]}
        known = self.installation.by_task
        return [pair for pair in pairs if pair[1] not in known and pair[1] not in self.plain_tasks]


def load_parked_of(client: redis.Redis, names: Names, owned: OwnedPartition, items: list[Item]) -> None:
    """Load those of a batch's keys and lines that are parked, because not all parked keys are in memory."""
    assert owned.reading is not None
    places = dict.fromkeys(where for item in items for where in waits_in(item, owned.reading.place) if where not in owned.parked)
    if places:
        owned.learn_parked(*look_up_parked(client, names, owned.partition, places))
