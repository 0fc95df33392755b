"""Export: writes a whole group to a file, with a consistent snapshot of each partition.

Only commits and operators change a partition's states, parked keys, delayed messages and dead letters, and both change the
partition's `Witness`. So a partition is read in pages, which do not block the server. If the witness is the same before and after,
nothing changed. A partition that is too busy for that is paused while it is read. Its queue can only grow at the other end
meanwhile: the export has the messages that were there at the beginning.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import redis

from celery_partitions.admin.pause import EXPORT, pause, resume
from celery_partitions.admin.transfer import (
    FORMAT,
    VERSION,
    DeadLetterMessage,
    DeadLetterRecord,
    DelayedRecord,
    End,
    Header,
    Mail,
    Message,
    ParkedKeyRecord,
    PartitionMeta,
    Policy,
    Record,
    SeenIds,
    StateRecord,
    write_line,
)
from celery_partitions.model.errors import SetupError
from celery_partitions.model.keys import key_text
from celery_partitions.store.names import INGRESS, Names
from celery_partitions.store.server import server_time
from celery_partitions.store.topology import read_topology

#: Values read in one round trip.
PAGE = 1000
#: A paused partition changes at most until its current batch ends. More changes than this have another cause.
TRIES = 20
#: How long the workers may take to send on what commits have for other servers, and how often to look.
OUTBOX_SECONDS, LOOK_SECONDS = 60.0, 0.2
#: Fields of meta that belong to the running partition and are not exported.
_NOT_EXPORTED = ("edit_version", "to_isolate", "token", "holder", "since", "takeovers")
AGES: tuple[Literal["young", "old"], ...] = ("young", "old")


class Witness(NamedTuple):
    """Differs after any change of a partition, except for new messages in its queue."""

    commit_number: bytes | None
    edit_version: bytes | None
    dead: int
    delayed: int


class Exporter:
    """Writes one export. `paused` lists the partitions that it had to pause."""

    def __init__(self, client: redis.Redis, names: Names, partitions: int, *, by: str) -> None:
        self.client, self.names, self.partitions, self.by = client, names, partitions, by
        self.paused: list[str] = []

    def write(self, path: Path, *, pause_all: bool) -> int:
        """Write the file and return its number of records. The file appears at `path` only when it is complete.

        `pause_all` pauses all partitions while the file is written, so that the snapshot is consistent across them. A pipeline needs
        that, because its messages move between partitions. Without it, a message forwarded meanwhile may be in the file twice. The
        ingress is read first, so that no message is missing. On several servers it always pauses them, and waits until their outboxes are empty.
        """
        pause_all = pause_all or self.names.is_spread
        topology = read_topology(self.client, self.names, self.partitions)
        if topology.former is not None:
            raise SetupError("a resize is not finished, so messages are on their way between partitions. Export when `partitions resize --status` says that it is finished")
        partitions = [INGRESS, *map(str, range(self.partitions))]
        # After a resize to fewer, what is left in the others has no place by its partition: an import looks at each key.
        number = topology.partitions if topology.served == topology.partitions else 0
        part = path.with_name(path.name + ".part")
        # Readable by its owner only, because it contains states and messages.
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as stream:
            try:
                write_line(stream, Header(FORMAT, VERSION, self.names.group, number, server_time(self.client), self.names.root))
                with self._resting(partitions if pause_all else []):
                    records = self._write_policies(stream)
                    records += self._write_partitions(stream, partitions) if pause_all else self._write_each(stream, partitions)
                write_line(stream, End(records))
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        part.replace(path)
        return records

    @contextmanager
    def _resting(self, partitions: list[str]) -> Iterator[None]:
        """Pause the partitions while the block runs. Those that were paused before, or that an operator or a failure policy pauses
        meanwhile, stay paused."""
        mine = pause(self.client, self.names, partitions, by=self.by, whose=EXPORT) if partitions else []
        self.paused += mine
        try:
            if self.names.is_spread:
                self._wait_for_outboxes(partitions)
            yield
        finally:
            if mine:
                resume(self.client, self.names, mine, by=self.by, whose=EXPORT)

    def _wait_for_outboxes(self, partitions: list[str]) -> None:
        """Wait until the workers have sent on what commits have for other servers."""
        deadline = time.monotonic() + OUTBOX_SECONDS
        while True:
            with self.client.pipeline(transaction=False) as pipe:
                for partition in partitions:
                    pipe.llen(self.names.outbox(partition))
                left = [self.names.queue_name(partition) for partition, count in zip(partitions, pipe.execute(), strict=True) if count]
            if not left:
                return
            if time.monotonic() > deadline:
                raise SetupError(f"messages of {', '.join(left)} are still on their way to other servers; nothing was exported. Workers send them: start one, or see its log")
            time.sleep(LOOK_SECONDS)  # workers publish nothing when an outbox becomes empty: they trim outboxes all the time

    def _write_policies(self, stream: BinaryIO) -> int:
        rows = cast(dict[bytes, bytes], self.client.hgetall(self.names.policies))
        for name, change in rows.items():
            write_line(stream, Policy(name.decode("utf-8", "backslashreplace"), change))
        return len(rows)

    def _write_each(self, stream: BinaryIO, partitions: list[str]) -> int:
        return sum(self._write_partition(stream, partition) for partition in partitions)

    def _write_partitions(self, stream: BinaryIO, partitions: list[str]) -> int:
        """Write a snapshot of all partitions together. It is written again if anything changed: a batch that was running when the
        partitions were paused may have sent a message to a partition that was already written."""
        start = stream.tell()
        for _ in range(TRIES):
            before = [self._witness(partition) for partition in partitions]
            records = self._write_each(stream, partitions)
            if [self._witness(partition) for partition in partitions] == before:
                return records
            stream.seek(start)
            stream.truncate()
        raise SetupError("the partitions keep changing although they are paused; nothing was exported. Try again")

    def _write_partition(self, stream: BinaryIO, partition: str) -> int:
        records = self._try_partition(stream, partition)
        if records is None:
            with self._resting([partition]):
                for _ in range(TRIES):
                    records = self._try_partition(stream, partition)
                    if records is not None:
                        break
        if records is None:
            raise SetupError(
                f"{self.names.queue_name(partition)} keeps changing although it is paused; nothing was exported. Try again"
            )
        return records

    def _try_partition(self, stream: BinaryIO, partition: str) -> int | None:
        """Write a partition's records and return their number. If the partition changed meanwhile, write nothing and return None."""
        start = stream.tell()
        before = self._witness(partition)
        records = 0
        for record in self._records(partition):
            write_line(stream, record)
            records += 1
        if self._witness(partition) == before:
            return records
        stream.seek(start)
        stream.truncate()
        return None

    def _witness(self, partition: str) -> Witness:
        names = self.names
        with self.client.pipeline(transaction=True) as pipe:
            pipe.hmget(names.meta(partition), ["commit_number", "edit_version"])
            pipe.hlen(names.dead(partition))
            pipe.zcard(names.delayed(partition))
            (commit_number, edit_version), dead, delayed = pipe.execute()
        return Witness(commit_number, edit_version, dead, delayed)

    def _records(self, partition: str) -> Iterator[Record]:
        names, client = self.names, self.client
        computations = sorted(names.computations_in(cast(list[bytes], client.hkeys(names.group_meta))))
        meta = cast(dict[bytes, bytes], client.hgetall(names.meta(partition)))
        values = {name.decode(): value.decode() for name, value in meta.items()}
        if values.get("paused") == EXPORT:
            del values["paused"]
        yield PartitionMeta(partition, {name: value for name, value in values.items() if name not in _NOT_EXPORTED})
        for name in computations:
            for key, state in client.hscan_iter(names.states(partition, name), count=PAGE):
                yield StateRecord(partition, name, key, state)
        for key, record in client.hscan_iter(names.parked(partition), count=PAGE):
            yield ParkedKeyRecord(partition, key, record)
            for message in self._list(names.mailbox(partition, key_text(key))):
                yield Mail(partition, key, message)
        for number in range(0, client.zcard(names.delayed(partition)), PAGE):
            rows = client.zrange(names.delayed(partition), number, number + PAGE - 1, withscores=True)
            for entry, due in cast(list[tuple[bytes, float]], rows):
                yield DelayedRecord(partition, int(due), entry)
        for dead_letter_id, dead_letter in client.hscan_iter(names.dead(partition), count=PAGE):
            yield DeadLetterRecord(partition, dead_letter_id, dead_letter)
        for dead_letter_id, message in client.hscan_iter(names.dead_raw(partition), count=1):
            yield DeadLetterMessage(partition, dead_letter_id, message)
        for name in computations:
            for age in AGES:
                left = max(-1, client.pttl(names.deduplication(partition, name, age)))
                ids = list(client.sscan_iter(names.deduplication(partition, name, age), count=PAGE))
                for number in range(0, len(ids), PAGE):
                    yield SeenIds(partition, name, age, ids[number : number + PAGE], left)
        queue = names.queue(partition)
        for prioritized in names.priority_lists(partition):  # each renewal of a lease does the same
            while client.lmove(prioritized, queue, "RIGHT", "LEFT"):
                pass
        for message in self._list(queue):
            yield Message(partition, message)

    def _list(self, name: Any) -> Iterator[bytes]:
        """The values that the list has at the beginning, oldest first."""
        length = self.client.llen(name)
        for start in range(0, length, PAGE):
            page = cast(list[bytes], self.client.lrange(name, -min(start + PAGE, length), -start - 1))
            yield from page[::-1]
