"""Import: the records of an export into a group that holds nothing, with the same N or another one.

No worker may live meanwhile. Every unit is paused until all is written, so that what was cut short is not worked on.
With another N each record goes where its key belongs: this is how N is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import SetupError
from celery_partitions.model.keying import key_in
from celery_partitions.model.keys import key_text, partition_of
from celery_partitions.operating.audit import Audit
from celery_partitions.operating.status import read_status
from celery_partitions.operating.transfer import (
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
    read_header,
    read_records,
)
from celery_partitions.operating.workers import read_workers
from celery_partitions.store.leases import fix_partitions
from celery_partitions.store.letters import DeadLetter
from celery_partitions.store.names import INGRESS, Names, units
from celery_partitions.store.parking import read_record

#: Commands of one writing round trip.
PAGE = 500
#: Facts that are the unit's own, and no counters.
_OWN_FACTS = ("commit_number", "paused", "token", "since")


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import has written."""

    records: int
    #: N of the file, and of the group.
    from_partitions: int
    to_partitions: int
    #: Messages without a key that can be had here, which went to a partition by their old one's number.
    without_key: int
    #: Records of ids seen, which another N can't use.
    left_out: int


class Importer:
    """Reads one export into a group."""

    def __init__(
        self, client: redis.Redis, names: Names, partitions: int, computations: Mapping[str, Computation], path: Path
    ) -> None:
        self.client, self.names, self.partitions, self.path = client, names, partitions, path
        self.computations = computations
        self.header: Header = read_header(path)
        self._without_key = self._left_out = 0
        #: In-place dead letters, which stay with their parked keys: id → key.
        self._waiting: dict[str, bytes] = {}

    def refuse_workers(self) -> None:
        """Raises `SetupError` while a worker of the group lives: it would work on half of a file."""
        alive = read_workers(self.client, self.names)
        if alive:
            nodes = ", ".join(worker.node for worker in alive)
            raise SetupError(f"an import wants the group's workers stopped, and these live: {nodes}")

    def holds(self) -> dict[str, int]:
        """What the group holds already, counted; empty when there is nothing."""
        rows = read_status(self.client, self.names, self.partitions)
        counts = {
            "messages": sum(row.length + row.delayed for row in rows),
            "states": sum(row.keys for row in rows),
            "parked keys": sum(row.parked for row in rows),
            "dead letters": sum(row.dead for row in rows),
        }
        return {what: count for what, count in counts.items() if count}

    def erase(self) -> int:
        """Delete all that the group has but the audit, N included; returns how many Redis keys. Workers must not live."""
        self.refuse_workers()
        found = [
            name
            for pattern in self.names.patterns()
            for name in self.client.scan_iter(match=pattern, count=PAGE)
            if name != self.names.audit.encode() and self.names.owns(name)
        ]
        for start in range(0, len(found), PAGE):
            self.client.unlink(*found[start : start + PAGE])
        return len(found)

    def check_file(self) -> None:
        """Raises `SetupError` when the file is not whole: before anything is deleted for it."""
        self._look_over()

    def run(self, *, by: str) -> Imported:
        """Check the whole file, then write it. Raises `SetupError`, and nothing is written, when it is not whole."""
        self.refuse_workers()
        records, computations, position = self._look_over()
        fix_partitions(self.client, self.names, self.partitions)
        all_units = units(self.partitions)
        detail = {
            "file": str(self.path),
            "records": records,
            "group": self.header.group,
            "partitions": self.header.partitions,
        }
        with self.client.pipeline(transaction=True) as pipe:
            Audit(self.client, self.names).add(pipe, by, "import", detail)
            for unit in all_units:
                pipe.hset(self.names.facts(unit), "paused", 1)
            for name in computations:
                pipe.hset(self.names.facts_of_group, self.names.computation_field(name), 1)
            pipe.execute()
        stay_paused: set[str] = set()
        self._write(stay_paused)
        with self.client.pipeline(transaction=True) as pipe:
            for unit in all_units:
                # Ids of dead letters and the order of delayed messages are made of it: it must not begin anew.
                pipe.hset(self.names.facts(unit), "commit_number", position)
                pipe.hincrby(self.names.facts(unit), "edit_version", 1)
                if unit not in stay_paused:
                    pipe.hdel(self.names.facts(unit), "paused")
            pipe.publish(self.names.changed, "")
            pipe.execute()
        return Imported(records, self.header.partitions, self.partitions, self._without_key, self._left_out)

    def _look_over(self) -> tuple[int, set[str], int]:
        """How many records, their computations, and the highest position, here or there. Writes nothing."""
        count, computations, position = 0, set(), 0
        for record in read_records(self.path):
            count += 1
            match record:
                case StateRecord() | Seen():
                    computations.add(record.computation)
                case Facts():
                    position = max(position, int(record.values.get("commit_number", 0)))
        for unit in units(self.partitions):
            position = max(position, int(cast(Any, self.client.hget(self.names.facts(unit), "commit_number")) or 0))
        return count, computations, position

    def _write(self, stay_paused: set[str]) -> None:
        pipe = self.client.pipeline(transaction=False)
        for record in read_records(self.path):
            for command in self._commands(record, stay_paused):
                pipe.execute_command(*command)
            if len(pipe) >= PAGE:
                pipe.execute()
        pipe.execute()

    def _commands(self, record: Record, stay_paused: set[str]) -> Iterator[list[Any]]:
        names = self.names
        match record:
            case Facts():
                unit = self._numbered(record.unit)
                if record.values.get("paused"):
                    stay_paused.add(unit)
                for name, value in record.values.items():
                    if name.startswith("seen:"):
                        if self.header.partitions == self.partitions:
                            yield ["HSET", names.facts(unit), name, value]
                    elif name not in _OWN_FACTS and value.lstrip("-").isdigit():
                        yield ["HINCRBY", names.facts(unit), name, value]
            case StateRecord():
                unit = self._of_key(record.key)
                yield ["HSET", names.states(unit, record.computation), record.key, record.state]
            case ParkedRecord():
                letter_id = read_record(record.record).letter
                if letter_id is not None:
                    self._waiting[letter_id] = record.key
                yield ["HSET", names.parked(self._of_key(record.key)), record.key, record.record]
            case Mail():
                yield ["LPUSH", names.mailbox(self._of_key(record.key), key_text(record.key)), record.message]
            case LaterRecord():
                unit = self._of_message(record.unit, record.entry.partition(b":")[2])
                yield ["ZADD", names.later(unit), record.due, record.entry]
            case LetterRecord():
                yield self._letter(record)
            case LetterMessage():
                yield ["HSET", names.dead_raw(self._numbered(record.unit)), record.id, record.message]
            case Seen():
                if self.header.partitions == self.partitions:
                    ids = names.seen(record.unit, record.computation, record.age)
                    yield ["SADD", ids, *record.ids]
                    if record.expire_ms > 0:
                        yield ["PEXPIRE", ids, record.expire_ms]
                else:
                    self._left_out += 1
            case Message():
                yield ["LPUSH", names.queue(self._of_message(record.unit, record.message)), record.message]
            case Policy():
                yield ["HSET", names.policies, record.computation, record.change]

    def _letter(self, record: LetterRecord) -> list[Any]:
        try:
            letter = msgspec.json.decode(record.letter, type=DeadLetter)
            raw = msgspec.convert(letter.raw, bytes)
        except (msgspec.DecodeError, UnicodeDecodeError):  # not ours: kept as it is
            return ["HSET", self.names.dead(self._numbered(record.unit)), record.id, record.letter]
        key = self._waiting.get(letter.id)
        letter.unit = self._of_message(record.unit, raw) if key is None else self._of_key(key)
        return ["HSET", self.names.dead(letter.unit), record.id, msgspec.json.encode(letter)]

    def _of_key(self, key: bytes) -> str:
        return str(partition_of(key, self.partitions))

    def _of_message(self, unit: str, raw: bytes) -> str:
        """With the same N where it was; with another its key's partition."""
        if unit == INGRESS or self.header.partitions == self.partitions:
            return unit
        found = key_in(raw, self.computations)
        if found is None:
            self._without_key += 1
            return self._numbered(unit)
        return self._of_key(found[1].encode("utf-8", "surrogateescape"))

    def _numbered(self, unit: str) -> str:
        return unit if unit == INGRESS else str(int(unit) % self.partitions)
