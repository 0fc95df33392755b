"""Import: loads an export into a group, with the same number of partitions (N) or another one.

All workers must be stopped. Every partition is paused until the whole file is written, so that no worker starts on an incomplete
import. With another N each record goes to the partition of its key: this is how N is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.status import read_status
from celery_partitions.admin.transfer import (
    DeadLetterMessage,
    DeadLetterRecord,
    DelayedRecord,
    Header,
    Mail,
    Message,
    ParkedKeyRecord,
    PartitionMeta,
    Policy,
    Record,
    SeenIds,
    StateRecord,
    read_header,
    read_records,
)
from celery_partitions.admin.workers import read_workers
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import SetupError, StateError
from celery_partitions.model.keys import key_bytes, key_text
from celery_partitions.model.message_key import key_in
from celery_partitions.model.own_lines import key_and_computation
from celery_partitions.model.task_lines import moved_line, partition_of_line
from celery_partitions.model.timers import key_of_alarm
from celery_partitions.model.topology import Topology
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.names import INGRESS, Names, partitions_and_ingress
from celery_partitions.store.parked_keys import due_score, read_record
from celery_partitions.store.topology import agree_on_topology, read_topology

#: Commands sent in one round trip.
PAGE = 500
#: Fields of meta that are not counters, and are not added up.
_OWN_META = ("commit_number", "paused", "token", "since", "takeovers")


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import."""

    records: int
    #: N of the file, and of the group.
    from_partitions: int
    to_partitions: int
    #: Messages whose key this app cannot compute. They went to partition (old number mod new N).
    without_key: int
    #: Records of deduplication ids, which were left out because N differs.
    left_out: int


class Importer:
    """Reads one export into a group."""

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        topology: Topology,
        computations: Mapping[str, Computation],
        path: Path,
        codec: StateCodec | None = None,
    ) -> None:
        self.client, self.names, self.topology, self.path = client, names, topology, path
        #: Signs the states of another group for this one.
        self.codec = codec or StateCodec(group=names.root)
        self.computations = computations
        self.header: Header = read_header(path)
        self._without_key = self._left_out = 0
        #: The field of `meta` with the highest version of a computation's states → that version, in the file or in Redis.
        self._versions: dict[str, int] = {}
        #: In-place dead letters (id → key): they must go to the partition of their parked key.
        self._waiting: dict[str, bytes] = {}

    def refuse_workers(self) -> None:
        """Raise `SetupError` if a worker of the group is running: it would process an incomplete import."""
        alive = read_workers(self.client, self.names)
        if alive:
            nodes = ", ".join(worker.node for worker in alive)
            raise SetupError(f"stop the group's workers before an import. Running: {nodes}")

    def holds(self) -> dict[str, int]:
        """What the group already holds, as counts by kind. Empty if it holds nothing."""
        rows = read_status(self.client, self.names, self.topology.served)
        counts = {
            "messages": sum(row.length + row.delayed for row in rows),
            "states": sum(row.keys for row in rows),
            "parked keys": sum(row.parked + row.running for row in rows),
            "dead letters": sum(row.dead for row in rows),
        }
        return {what: count for what, count in counts.items() if count}

    def erase(self) -> int:
        """Delete everything of the group, including N, except the audit. Returns the number of deleted Redis keys.

        Raises `SetupError` if a worker is running.
        """
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
        """Raise `SetupError` if the file is incomplete or damaged. Called before anything is deleted."""
        self._look_over()

    def run(self, *, by: str) -> Imported:
        """Check the whole file, then write it. If it is incomplete or damaged, raise `SetupError` and write nothing."""
        self.refuse_workers()
        if read_topology(self.client, self.names, self.topology.partitions).former is not None:
            raise SetupError("a resize is not finished. Import when `partitions resize --status` says that it is finished, or use --replace")
        records, computations, commit_number = self._look_over()
        agree_on_topology(self.client, self.names, self.topology.partitions)
        all_partitions = partitions_and_ingress(self.topology.served)
        detail = {
            "file": str(self.path),
            "records": records,
            "group": self.header.group,
            "partitions": self.header.partitions,
        }
        begins: dict[Any, Any] = {"paused": 1, **self._versions}
        with self.client.pipeline(transaction=not self.names.is_spread) as pipe:
            Audit(self.client, self.names).add(pipe, by, "import", detail)
            for partition in all_partitions:
                pipe.hset(self.names.meta(partition), mapping=begins)
            for name in computations:
                pipe.hset(self.names.group_meta, self.names.computation_field(name), 1)
            pipe.execute()
        stay_paused: set[str] = set()
        self._write(stay_paused)
        with self.client.pipeline(transaction=not self.names.is_spread) as pipe:
            for partition in all_partitions:
                # Dead letters' ids and the order of delayed messages use the commit number: it must not start again at zero.
                pipe.hset(self.names.meta(partition), "commit_number", commit_number)
                pipe.hincrby(self.names.meta(partition), "edit_version", 1)
                if partition not in stay_paused:
                    pipe.hdel(self.names.meta(partition), "paused")
            pipe.publish(self.names.changed, "")
            pipe.execute()
        return Imported(records, self.header.partitions, self.topology.partitions, self._without_key, self._left_out)

    def _look_over(self) -> tuple[int, set[str], int]:
        """The number of records, their computations, and the highest commit number in the file or in Redis. Writes nothing."""
        count, computations, commit_number = 0, set(), 0
        for record in read_records(self.path):
            count += 1
            match record:
                case StateRecord():
                    computations.add(record.computation)
                    self._state(record)
                case SeenIds():
                    computations.add(record.computation)
                case PartitionMeta():
                    commit_number = max(commit_number, int(record.values.get("commit_number", 0)))
                    self._note_versions(record.values)
        for partition in partitions_and_ingress(self.topology.served):
            meta = cast(dict[bytes, bytes], self.client.hgetall(self.names.meta(partition)))
            commit_number = max(commit_number, int(meta.get(b"commit_number", 0)))
            self._note_versions({name.decode(): value.decode() for name, value in meta.items()})
        return count, computations, commit_number

    def _note_versions(self, meta: Mapping[str, str]) -> None:
        for name, value in meta.items():
            if name != self.names.computation_of_version(name) and value.isdigit():
                self._versions[name] = max(self._versions.get(name, 0), int(value))

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
            case PartitionMeta():
                partition = self._numbered(record.partition)
                if record.values.get("paused"):
                    stay_paused.add(partition)
                for name, value in record.values.items():
                    if name.startswith("seen:"):
                        if self.header.partitions == self.topology.partitions:
                            yield ["HSET", names.meta(partition), name, value]
                    elif name not in _OWN_META and name not in self._versions and value.lstrip("-").isdigit():
                        yield ["HINCRBY", names.meta(partition), name, value]
            case StateRecord():
                partition = self._of_key(record.key)
                yield ["HSET", names.states(partition, record.computation), record.key, self._state(record)]
            case ParkedKeyRecord():
                parked = read_record(record.record)
                if parked.dead_letter is not None:
                    self._waiting[parked.dead_letter] = record.key
                partition, key = self._place_of(record.key)
                yield ["HSET", names.parked(partition), key_bytes(key), record.record]
                yield ["ZADD", names.parked_due(partition), due_score(parked), key_bytes(key)]
            case Mail():
                yield ["LPUSH", names.mailbox(*self._place_of(record.key)), record.message]
            case DelayedRecord():
                timed = key_of_alarm(record.entry)
                message = record.entry.partition(b":")[2]
                partition = self._of_message(record.partition, message) if timed is None else self._of_key(key_bytes(timed))
                yield ["ZADD", names.delayed(partition), record.due, record.entry]
            case DeadLetterRecord():
                yield self._dead_letter(record)
            case DeadLetterMessage():
                yield ["HSET", names.dead_raw(self._numbered(record.partition)), record.id, record.message]
            case SeenIds():
                if self.header.partitions == self.topology.partitions:
                    ids = names.deduplication(record.partition, record.computation, record.age)
                    yield ["SADD", ids, *record.ids]
                    if record.expire_ms > 0:
                        yield ["PEXPIRE", ids, record.expire_ms]
                else:
                    self._left_out += 1
            case Message():
                yield ["LPUSH", names.queue(self._of_message(record.partition, record.message)), record.message]
            case Policy():
                yield ["HSET", names.policies, record.computation, record.change]

    def _dead_letter(self, record: DeadLetterRecord) -> list[Any]:
        try:
            dead_letter = msgspec.json.decode(record.dead_letter, type=DeadLetter)
            raw = msgspec.convert(dead_letter.raw, bytes)
        except (msgspec.DecodeError, UnicodeDecodeError):  # not written by us: kept unchanged
            return ["HSET", self.names.dead(self._numbered(record.partition)), record.id, record.dead_letter]
        key = self._waiting.get(dead_letter.id)
        dead_letter.partition = self._of_message(record.partition, raw) if key is None else self._place_of(key)[0]
        return ["HSET", self.names.dead(dead_letter.partition), record.id, msgspec.json.encode(dead_letter)]

    def _of_key(self, key: bytes) -> str:
        return str(self.topology.partition_of(key_text(key)))

    def _place_of(self, key: bytes) -> tuple[str, str]:
        """The partition of a parked key, and the key. A task's line is not in the partition of a key: its messages are sorted when it ends."""
        text = key_text(key)
        line = partition_of_line(text)
        if line is None:
            return self._of_key(key_bytes(key_and_computation(text)[0])), text
        return self._numbered(line), moved_line(text, self._numbered(line))

    def _of_message(self, partition: str, raw: bytes) -> str:
        """The same partition if N is the same, else the partition of the message's key."""
        if partition == INGRESS or self.header.partitions == self.topology.partitions:
            return partition
        found = key_in(raw, self.computations)
        if found is None:
            self._without_key += 1
            return self._numbered(partition)
        return self._of_key(found[1].encode("utf-8", "surrogateescape"))

    def _state(self, record: StateRecord) -> bytes:
        """The state in this group's form: a state of another group is signed again. A state that could not be read in the other group
        is kept unchanged.

        Raises `SetupError` if the state is signed and this process has no key.
        """
        if self.header.root == self.names.root:
            return record.state
        key = key_text(record.key)
        if not self.codec.has_keys and self.codec.meta(record.computation, key, record.state).form == "signed":
            raise SetupError(
                f"{self.path} was written by group {self.header.root!r}, and its states are signed for that group. Set "
                "PARTITIONS_STATE_SIGNING_KEY to that group's key, so that this command can sign them for this group"
            )
        try:
            return self.codec.moved(record.computation, key, record.state, self.header.root)
        except StateError:
            return record.state

    def _numbered(self, partition: str) -> str:
        return partition if partition == INGRESS else str(int(partition) % self.topology.partitions)
