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

from celery_partitions.model.errors import SetupError
from celery_partitions.model.keys import key_text
from celery_partitions.operating.pausing import EXPORT, pause, resume
from celery_partitions.operating.transfer import (
    FORMAT,
    VERSION,
    End,
    Facts,
    Header,
    LaterRecord,
    LetterMessage,
    LetterRecord,
    Mail,
    Message,
    ParkedRecord,
    Policy,
    Record,
    Seen,
    StateRecord,
    write_line,
)
from celery_partitions.store.names import INGRESS, PRIORITY_SUFFIXES, Names

#: Values of one reading round trip.
PAGE = 1000
#: A paused partition comes to rest with the batch under way; more changes than this have another cause.
TRIES = 20
#: Of the facts: what an import gives another partition.
_NOT_EXPORTED = ("edit_version", "suspect", "token", "holder", "since")
AGES: tuple[Literal["young", "old"], ...] = ("young", "old")


class Witness(NamedTuple):
    """What is another one after anything changed in a unit, but for messages that came to its queue."""

    position: bytes | None
    revision: bytes | None
    dead: int
    later: int


class Exporter:
    """Writes one export. `paused` are the units that it had to pause."""

    def __init__(self, client: redis.Redis, names: Names, partitions: int, *, by: str) -> None:
        self.client, self.names, self.partitions, self.by = client, names, partitions, by
        self.paused: list[str] = []

    def write(self, path: Path, *, pause_all: bool) -> int:
        """Write the file; returns how many records it has. It appears when it is whole.

        `pause_all`: all partitions rest while it is written, so that it is consistent over them too: a pipeline's messages go
        from any partition to any other. Without, a message that is forwarded from one unit to another meanwhile may be in the
        file twice. The ingress is read first, so that none is missing.
        """
        units = [INGRESS, *map(str, range(self.partitions))]
        part = path.with_name(path.name + ".part")
        # Only for its owner: states and messages are in it.
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as stream:
            try:
                seconds, micros = self.client.time()
                at = seconds + micros / 1_000_000
                write_line(stream, Header(FORMAT, VERSION, self.names.group, self.partitions, at))
                with self._resting(units if pause_all else []):
                    records = self._write_policies(stream)
                    records += self._write_units(stream, units) if pause_all else self._write_each(stream, units)
                write_line(stream, End(records))
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        part.replace(path)
        return records

    @contextmanager
    def _resting(self, units: list[str]) -> Iterator[None]:
        """Paused while the block runs; what was paused before stays so, and what an operator or a failure policy pauses meanwhile."""
        mine = pause(self.client, self.names, units, by=self.by, whose=EXPORT) if units else []
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

    def _write_each(self, stream: BinaryIO, units: list[str]) -> int:
        return sum(self._write_unit(stream, unit) for unit in units)

    def _write_units(self, stream: BinaryIO, units: list[str]) -> int:
        """Write all as they were at one moment: a batch that was under way when they were paused may have put a message into the
        queue of a unit that was written already."""
        start = stream.tell()
        for _ in range(TRIES):
            before = [self._witness(unit) for unit in units]
            records = self._write_each(stream, units)
            if [self._witness(unit) for unit in units] == before:
                return records
            stream.seek(start)
            stream.truncate()
        raise SetupError("the partitions do not come to rest though they are paused; nothing is exported")

    def _write_unit(self, stream: BinaryIO, unit: str) -> int:
        records = self._try_unit(stream, unit)
        if records is None:
            with self._resting([unit]):
                for _ in range(TRIES):
                    records = self._try_unit(stream, unit)
                    if records is not None:
                        break
        if records is None:
            raise SetupError(
                f"{self.names.queue_name(unit)} does not come to rest though it is paused; nothing is exported"
            )
        return records

    def _try_unit(self, stream: BinaryIO, unit: str) -> int | None:
        """Write a unit's records; None, and nothing written, when it changed meanwhile."""
        start = stream.tell()
        before = self._witness(unit)
        records = 0
        for record in self._records(unit):
            write_line(stream, record)
            records += 1
        if self._witness(unit) == before:
            return records
        stream.seek(start)
        stream.truncate()
        return None

    def _witness(self, unit: str) -> Witness:
        names = self.names
        with self.client.pipeline(transaction=True) as pipe:
            pipe.hmget(names.facts(unit), ["commit_number", "edit_version"])
            pipe.hlen(names.dead(unit))
            pipe.zcard(names.later(unit))
            (position, revision), dead, later = pipe.execute()
        return Witness(position, revision, dead, later)

    def _records(self, unit: str) -> Iterator[Record]:
        names, client = self.names, self.client
        computations = sorted(names.computations_in(cast(list[bytes], client.hkeys(names.facts_of_group))))
        facts = cast(dict[bytes, bytes], client.hgetall(names.facts(unit)))
        values = {name.decode(): value.decode() for name, value in facts.items()}
        if values.get("paused") == EXPORT:
            del values["paused"]
        yield Facts(unit, {name: value for name, value in values.items() if name not in _NOT_EXPORTED})
        for name in computations:
            for key, state in client.hscan_iter(names.states(unit, name), count=PAGE):
                yield StateRecord(unit, name, key, state)
        for key, record in client.hscan_iter(names.parked(unit), count=PAGE):
            yield ParkedRecord(unit, key, record)
            for message in self._list(names.mailbox(unit, key_text(key))):
                yield Mail(unit, key, message)
        for number in range(0, client.zcard(names.later(unit)), PAGE):
            rows = client.zrange(names.later(unit), number, number + PAGE - 1, withscores=True)
            for entry, due in cast(list[tuple[bytes, float]], rows):
                yield LaterRecord(unit, int(due), entry)
        for letter_id, letter in client.hscan_iter(names.dead(unit), count=PAGE):
            yield LetterRecord(unit, letter_id, letter)
        for letter_id, message in client.hscan_iter(names.dead_raw(unit), count=1):
            yield LetterMessage(unit, letter_id, message)
        for name in computations:
            for age in AGES:
                left = max(-1, client.pttl(names.seen(unit, name, age)))
                ids = list(client.sscan_iter(names.seen(unit, name, age), count=PAGE))
                for number in range(0, len(ids), PAGE):
                    yield Seen(unit, name, age, ids[number : number + PAGE], left)
        queue = names.queue(unit)
        for suffix in PRIORITY_SUFFIXES:  # as each renewal of a lease does
            while client.lmove(queue + suffix, queue, "RIGHT", "LEFT"):
                pass
        for message in self._list(queue):
            yield Message(unit, message)

    def _list(self, name: Any) -> Iterator[bytes]:
        """A list's values, the oldest first; those that it has at the beginning."""
        length = self.client.llen(name)
        for start in range(0, length, PAGE):
            page = cast(list[bytes], self.client.lrange(name, -min(start + PAGE, length), -start - 1))
            yield from page[::-1]
