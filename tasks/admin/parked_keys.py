"""Operators' actions on parked keys: list, retry, skip, discard."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import msgspec
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.keys import key_bytes, key_text, normalize_key, shown_key
from celery_partitions.model.messages import name_of
from celery_partitions.model.own_lines import is_own_line, key_and_computation, own_line
from celery_partitions.model.task_lines import partition_of_line
from celery_partitions.model.topology import Topology
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.hashes import filled
from celery_partitions.store.names import Names, partitions_and_ingress
from celery_partitions.store.parked_keys import due_score, read_record
from celery_partitions.store.scripts import digest_of, script
from celery_partitions.store.server import server_time

#: `running`: the call of the first waiting message is in flight, so there is nothing to do. `not-failed`: the first waiting message has not failed, so there is nothing to skip or discard. `changed`: another message has
#: failed since the operator looked, or the key kept changing. `batch`: several messages failed in one call of a batch computation, and nobody
#: knows yet which of them is at fault.
Answer = Literal["ok", "changed", "not-parked", "not-failed", "running", "batch"]

PAGE = 500
#: How often an action is attempted when a worker changes the key between the read and the script.
TRIES = 10


@dataclass(frozen=True, slots=True)
class _Seen:
    stored: bytes
    parked: ParkedKey
    head: bytes | None


class ParkedKeys:
    """The parked keys of a group. A key and its own lines can be parked only in the key's partition, a task's line in any."""

    def __init__(self, client: redis.Redis, names: Names, topology: Topology, audit: Audit) -> None:
        self.client, self.names, self.topology, self.audit = client, names, topology, audit

    def all(self) -> Iterator[ParkedKey]:
        """Every parked key, in no particular order. Scans Redis page by page."""
        every = partitions_and_ingress(self.topology.served)
        there = filled(self.client, map(self.names.parked, every))
        for partition in every:
            if self.names.parked(partition) in there:
                yield from self.of_partition(_numbered(partition))

    def of_partition(self, partition: int | Literal["ingress"]) -> Iterator[ParkedKey]:
        """The parked keys of one partition, in no particular order."""
        rows: dict[bytes, bytes] = {}
        for field, record in self.client.hscan_iter(self.names.parked(str(partition)), count=PAGE):
            rows[field] = record
            if len(rows) >= PAGE:
                yield from self._with_lengths(partition, rows)
                rows = {}
        yield from self._with_lengths(partition, rows)

    def _with_lengths(self, partition: int | Literal["ingress"], rows: dict[bytes, bytes]) -> Iterator[ParkedKey]:
        with self.client.pipeline(transaction=False) as pipe:
            for field in rows:
                pipe.llen(cast(str, self.names.mailbox(str(partition), key_text(field))))
            lengths = pipe.execute()
        for (field, record), length in zip(rows.items(), lengths, strict=True):
            yield msgspec.structs.replace(read_record(record), key=key_text(field), partition=partition, waiting=length)

    def get(self, key: object) -> ParkedKey | None:
        """The parked key; None if the key is not parked."""
        normalized = _normalized(key)
        partition = self.partition(normalized)
        record = self.client.hget(self.names.parked(partition), cast(str, key_bytes(normalized)))
        if record is None:
            return None
        return next(self._with_lengths(_numbered(partition), {key_bytes(normalized): cast(bytes, record)}))

    def of_key(self, key: object) -> list[ParkedKey]:
        """The parked key and its own lines: everything of it that waits. However many keys are parked, it reads only these."""
        normalized = _normalized(key)
        found = self.get(normalized)
        waiting = [] if found is None else [found]
        if is_own_line(normalized):
            return waiting
        partition = self.partition(normalized)
        computations = self.names.computations_in(cast(list[bytes], self.client.hkeys(self.names.group_meta)))
        fields = [key_bytes(own_line(normalized, name)) for name in computations]
        records = cast(list[bytes | None], self.client.hmget(self.names.parked(partition), cast(list[str], fields))) if fields else []
        lines = {field: record for field, record in zip(fields, records, strict=True) if record is not None}
        return [*waiting, *self._with_lengths(_numbered(partition), lines)]

    def of_dead_letter(self, dead_letter: DeadLetter) -> ParkedKey | None:
        """The key that waits behind this in-place dead letter; None if there is none (any more)."""
        for parked in self.all() if dead_letter.key is None else self._likely(dead_letter.key, dead_letter.task):
            if parked.dead_letter == dead_letter.id:
                return parked
        return None

    def _likely(self, shown: str, task: str | None) -> Iterator[ParkedKey]:
        """Candidates for a dead letter's key: first the key as shown and its task's own line, then all. A key that is not UTF-8 text is
        shown escaped, so it cannot be looked up."""
        for name in (shown, own_line(shown, task or "")):
            found = self.get(name)
            if found is not None:
                yield found
        yield from self.all()

    def retry(self, key: object, *, by: str) -> Answer:
        """Retry the key's first message now, in place. Its count of attempts starts again."""
        return self._edit(_normalized(key), "retry", by)

    def skip(self, key: object, *, by: str, of: ParkedKey | None = None) -> Answer:
        """Make the failed message an ordinary dead letter; the key continues with its next message.

        `of`: the parked key that the operator saw. If another message has failed since, nothing is changed.
        """
        return self._edit(_normalized(key), "skip", by, of)

    def discard(self, key: object, *, by: str, of: ParkedKey | None = None) -> Answer:
        """Delete the failed message and its dead letter permanently; the key continues with its next message.

        `of`: as for `skip`.
        """
        return self._edit(_normalized(key), "discard", by, of)

    def _edit(self, key: str, action: str, by: str, of: ParkedKey | None = None) -> Answer:
        for _ in range(TRIES):
            seen = self._see(key)
            if seen is None:
                return "not-parked"
            if seen.parked.why == "running":
                return "running"
            if of is not None and (of.message_id, of.since) != (seen.parked.message_id, seen.parked.since):
                return "changed"
            if action != "retry" and (seen.head is None or not (seen.parked.error or seen.parked.dead_letter)):
                return "not-failed"
            if action != "retry" and seen.parked.size > 1:
                return "batch"
            if self._try(key, action, seen, by) == "ok":
                return "ok"
        return "changed"

    def partition(self, key: str) -> str:
        """The partition where a key, an own line or a task's line is parked, if it is."""
        line = partition_of_line(key)
        if line is not None:
            return line
        if is_own_line(key):
            partition = str(self.topology.partition_of(key_and_computation(key)[0]))
            if self.client.hexists(self.names.parked(partition), cast(str, key_bytes(key))):  # else a key that looks like one
                return partition
        return str(self.topology.partition_of(key))

    def _see(self, key: str) -> _Seen | None:
        partition = self.partition(key)
        with self.client.pipeline(transaction=True) as pipe:
            pipe.hget(self.names.parked(partition), cast(str, key_bytes(key)))
            pipe.lindex(cast(str, self.names.mailbox(partition, key)), -1)
            record, head = pipe.execute()
        return None if record is None else _Seen(record, read_record(record), head)

    def _try(self, key: str, action: str, seen: _Seen, by: str) -> str:
        partition, names = self.partition(key), self.names
        now = server_time(self.client)
        written = self._skipped_dead_letter(key, seen, now) if action == "skip" else None
        if action == "retry":
            left = msgspec.structs.replace(seen.parked, due=now, attempt=1)
        else:
            left = ParkedKey(due=now, attempt=1, since=now)
        detail = {
            "key": shown_key(key_and_computation(key)[0]),
            "partition": _numbered(partition),
            "message_id": seen.parked.message_id,
            "error": seen.parked.error,
            "dead_letter": seen.parked.dead_letter if written is None else written.id,
        }
        answer: bytes = script("edit_parked").run(
            self.client,
            [names.parked(partition), names.mailbox(partition, key), names.meta(partition), names.dead(partition), names.audit_of(partition), names.parked_due(partition)],
            [
                key_bytes(key),
                digest_of(seen.stored),
                "" if seen.head is None else digest_of(seen.head),
                "keep" if action == "retry" else "take",
                msgspec.json.encode(left),
                "" if written is None else written.id,
                b"" if written is None else msgspec.json.encode(written),
                (seen.parked.dead_letter or "") if action == "discard" else "",
                names.changed,
                due_score(left),
                *self.audit.words(by, f"parked {action}", detail),
            ],
        )
        return answer.decode()

    def _skipped_dead_letter(self, key: str, seen: _Seen, now: float) -> DeadLetter:
        """The in-place dead letter as an ordinary one, or a new dead letter if retries were left."""
        partition, raw = self.partition(key), seen.head or b""
        if seen.parked.dead_letter is not None:
            row = self.client.hget(self.names.dead(partition), seen.parked.dead_letter)
            if row is not None:
                try:
                    dead_letter = msgspec.json.decode(cast(bytes, row), type=DeadLetter)
                    return msgspec.structs.replace(dead_letter, in_place=False)
                except msgspec.DecodeError:
                    pass
        task, message_id = name_of(raw)
        return DeadLetter(
            id=seen.parked.dead_letter or f"{partition}-skipped-{uuid.uuid4().hex[:12]}",
            partition=partition,
            reason="skipped",
            error=seen.parked.error,
            trace=seen.parked.trace,
            task=task,
            message_id=message_id,
            key=shown_key(key_and_computation(key)[0]),
            attempts=max(0, seen.parked.attempt - 1),
            died_at=now,
            raw=base64.b64encode(raw).decode(),
        )


def _normalized(key: object) -> str:
    """A key as it is stored, or the name of an own line, which may be longer than a key."""
    return key if isinstance(key, str) and is_own_line(key) else normalize_key(key)


def _numbered(partition: str) -> int | Literal["ingress"]:
    return "ingress" if partition == "ingress" else int(partition)
