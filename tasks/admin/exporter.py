"""Export: all that a group holds into a file, each partition as it was at one moment.

A partition's states, parked keys, delayed messages and dead letters change only by commits and by operators, and both leave
a trace in the partition's `Witness`. So it is read in pages, which stop no server; when the witness is the same after as
before, nothing changed meanwhile. A partition that is too busy for that is paused while it is read. Its queue only grows
meanwhile, at the other end: the messages there at the beginning are those exported.
"""

from __future__ import annotations

import os
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
    ExportedParkedKey,
    Header,
    Mail,
    Message,
    PartitionMeta,
    Policy,
    Record,
    SeenIds,
    StateRecord,
    write_line,
)
from celery_partitions.model.errors import SetupError
from celery_partitions.model.keys import key_text
from celery_partitions.store.names import INGRESS, PRIORITY_SUFFIXES, Names

#: Values of one reading round trip.
PAGE = 1000
#: A paused partition comes to rest with the batch under way; more changes than this have another cause.
TRIES = 20
#: Of the facts: what an import gives another partition.
_NOT_EXPORTED = ("edit_version", "to_isolate", "token", "holder", "since")
AGES: tuple[Literal["young", "old"], ...] = ("young", "old")


class Witness(NamedTuple):
    """What is another one after anything changed in a partition, but for messages that came to its queue."""

    commit_number: bytes | None
    edit_version: bytes | None
    dead: int
    delayed: int


class Exporter:
    """Writes one export. `paused` are the partitions that it had to pause."""

    def __init__(self, client: redis.Redis, names: Names, partitions: int, *, by: str) -> None:
        self.client, self.names, self.partitions, self.by = client, names, partitions, by
        self.paused: list[str] = []

    def write(self, path: Path, *, pause_all: bool) -> int:
        """Write the file; returns how many records it has. It appears when it is whole.

        `pause_all`: all partitions rest while it is written, so that it is consistent over them too: a pipeline's messages go
        from any partition to any other. Without, a message that is forwarded from one partition to another meanwhile may be in the
        file twice. The ingress is read first, so that none is missing.
        """
        partitions = [INGRESS, *map(str, range(self.partitions))]
        part = path.with_name(path.name + ".part")
        # Only for its owner: states and messages are in it.
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as stream:
            try:
                seconds, micros = self.client.time()
                at = seconds + micros / 1_000_000
                write_line(stream, Header(FORMAT, VERSION, self.names.group, self.partitions, at, self.names.root))
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
        """Paused while the block runs; what was paused before stays so, and what an operator or a failure policy pauses meanwhile."""
        mine = pause(self.client, self.names, partitions, by=self.by, whose=EXPORT) if partitions else []
        self.paused += mine
        try:
            yield
        finally:
            if mine:
                resume(self.client, self.names, mine, by=self.by, whose=EXPORT)

    def _write_policies(self, stream: BinaryIO) -> int:
        rows = cast(dict[bytes, bytes], self.client.hgetall(self.names.policies))
        for name, change in rows.items():
            write_line(stream, Policy(name.decode("utf-8", "backslashreplace"), change))
        return len(rows)

    def _write_each(self, stream: BinaryIO, partitions: list[str]) -> int:
        return sum(self._write_partition(stream, partition) for partition in partitions)

    def _write_partitions(self, stream: BinaryIO, partitions: list[str]) -> int:
        """Write all as they were at one moment: a batch that was under way when they were paused may have put a message into the
        queue of a partition that was written already."""
        start = stream.tell()
        for _ in range(TRIES):
            before = [self._witness(partition) for partition in partitions]
            records = self._write_each(stream, partitions)
            if [self._witness(partition) for partition in partitions] == before:
                return records
            stream.seek(start)
            stream.truncate()
        raise SetupError("the partitions do not come to rest though they are paused; nothing is exported")

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
                f"{self.names.queue_name(partition)} does not come to rest though it is paused; nothing is exported"
            )
        return records

    def _try_partition(self, stream: BinaryIO, partition: str) -> int | None:
        """Write a partition's records; None, and nothing written, when it changed meanwhile."""
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
            yield ExportedParkedKey(partition, key, record)
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
        for suffix in PRIORITY_SUFFIXES:  # as each renewal of a lease does
            while client.lmove(queue + suffix, queue, "RIGHT", "LEFT"):
                pass
        for message in self._list(queue):
            yield Message(partition, message)

    def _list(self, name: Any) -> Iterator[bytes]:
        """A list's values, the oldest first; those that it has at the beginning."""
        length = self.client.llen(name)
        for start in range(0, length, PAGE):
            page = cast(list[bytes], self.client.lrange(name, -min(start + PAGE, length), -start - 1))
            yield from page[::-1]
