"""Every key and queue name in Redis is made here. This list is the data model.

A queue is a plain Celery queue. Every other key of a partition is `{<queue>}:<what>`: the braces are a Redis hash tag, so the queue and
all its keys share one cluster slot. kombu's `global_keyprefix` is part of the queue's name, so it stands inside the braces too.
The ingress is a partition as well. Its queue has the group's name, so its keys and the group's keys share a slot.

Of each partition, here of `partition.3`:

partition.3                         list   the queue; the oldest message is on the right
partition.3\\x06\\x16<3|6|9>          list   where kombu's default options put messages with a priority (in another slot)
{partition.3}:meta                  hash   token: fencing token; grows with each claim and each release (µs, server clock)
                                           holder: id of the worker that was given the token; none after a release
                                           since: number of the holder's assignment, as in {partition}:since
                                           commit_number: how many commits it has had
                                           edit_version: how many edits of operators it has had
                                           paused: 1, or who paused it
                                           to_isolate: how many messages to note before they run, after a worker died
                                           seen:<computation>: when its young ids began (ms)
                                           counters: processed, failed, emitted, …
{partition.3}:state:<computation>   hash   key → record (store/record.py) around the pickled state
{partition.3}:delayed               zset   due (ms) → `<commit number>.<index>:<raw message>`
{partition.3}:parked                hash   key → JSON {due, attempt, error, dead_letter, …}
{partition.3}:mailbox:<key>         list   a parked key's messages; the oldest is on the right
{partition.3}:dead                  hash   dead letter id → JSON
{partition.3}:dead:raw              hash   dead letter id → the message itself, where it is too long for the JSON
{partition.3}:isolation             hash   SHA-1 of a message that runs after a worker died → `<token>:<deaths>:<stalls>`, or
                                           `hang:<why>`
{partition.3}:commits               list   JSON of the newest commits (store/recent_commits.py); the newest is on the left
{partition.3}:seen:<age>:<computation>
                                    set    message ids, for a computation that drops duplicates; age: young, old

Of the group `partition`; the ingress has the keys above as well, for example `{partition}:meta`:

{partition}:group                   hash   layout (store/topology.py); partitions = N; epoch, which grows when N changes; computation:<name> = 1
                                           for each that ever ran
{partition}:workers                 zset   worker id → when its leases end (ms, server clock)
{partition}:pins                    hash   worker id → the partitions it was pinned to, comma-separated
{partition}:owners                  hash   partition → the worker that it is assigned to (a partition is written as its number, or `ingress`)
{partition}:since                   hash   partition → when it was assigned (µs, server clock); grows with each assignment
{partition}:changed                 channel: membership, ownership, or something that an operator changed
{partition}:policies                hash   computation → JSON, what an operator changed of its failure policy
{partition}:audit                   stream what operators did: at (its id), who, what, detail (JSON); bounded
{partition}:measurements            hash   partition → JSON, what workers measured (store/telemetry.py)
{partition}:draining                hash   worker id → when an operator told it to give its partitions up (ms)
{partition}:source:<name>           hash   how far a source's process is: number (of pushes), position, ended; owner, token, until (ms)
{partition}:source:<name>:<run>     hash   number (of pushes) of one process of a source that has no position; expires

partition.sink.<name>               the group, of one partition, of a sink that a process delivers to: all names above, again
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from celery_partitions.model.errors import SetupError

INGRESS = "ingress"

#: kombu's Redis transport, default priority steps 3, 6, 9 (0 is the queue's own name).
PRIORITY_SUFFIXES = ("\x06\x163", "\x06\x166", "\x06\x169")

_COMPUTATION = "computation:"
#: As it is written, without zeros before it: `partition.03` is no queue of ours.
_IS_NUMBER = re.compile(r"0|[1-9][0-9]*")
_NUMBER_AT_END = re.compile(r"\.(?=[0-9]+$)")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one partition group. `prefix` is kombu's `global_keyprefix`, which kombu adds to queues."""

    group: str
    prefix: str = ""

    def __post_init__(self) -> None:
        if "}" in self.root and _around(self.root)[0]:
            raise SetupError(
                f"queues can't begin with {self.root!r}: a }} without a {{ and text before it breaks Redis hash tags. Change "
                "global_keyprefix in broker_transport_options, or the group's name"
            )

    @property
    def root(self) -> str:
        return self.prefix + self.group

    def queue_name(self, partition: str) -> str:
        """The queue as Celery names it, without the key prefix that kombu adds by itself."""
        return self.group if partition == INGRESS else f"{self.group}.{partition}"

    def queue(self, partition: str) -> str:
        return self.prefix + self.queue_name(partition)

    def partition_of_queue(self, queue_name: str) -> str | None:
        """The partition of a queue named as Celery names it; None when it is not of this group."""
        if queue_name == self.group:
            return INGRESS
        start, _, number = queue_name.rpartition(".")
        return number if start == self.group and _IS_NUMBER.fullmatch(number) else None

    def is_no_queue(self, queue_name: str) -> bool:
        """Whether a queue of this name would be one of the group's other keys, or of a sink's group. The name is as Celery has it."""
        full, (head, tail) = self.prefix + queue_name, _around(self.root)
        if not full.startswith(head + self.root):
            return False
        rest = full[len(head + self.root) :]
        return rest.startswith(f"{tail}:") or (rest.startswith(".") and f"{tail}:" in rest)

    def owns(self, key: bytes) -> bool:
        """Whether a key of Redis is this group's. Another group's name may begin with this one's and a dot."""
        name = key.decode("utf-8", "surrogateescape")
        head, tail = _around(self.root)
        queue = name.partition("\x06")[0]
        if name.startswith(head + self.root):
            end = name.find(f"{tail}:", len(head + self.root))
            queue = name[len(head) : end] if end >= 0 else queue
        return queue.startswith(self.prefix) and self.partition_of_queue(queue.removeprefix(self.prefix)) is not None

    def patterns(self) -> tuple[str, ...]:
        """For SCAN: every key of the group matches one of them. Keys of other groups may match too: ask `owns`."""
        head, tail = _around(self.root)
        start = _escaped(head + self.root)
        queues = _escaped(self.root)
        return (queues, f"{queues}[.\x06]*", f"{start}{_escaped(tail)}:*", f"{start}.*")

    def _key(self, partition: str, what: str) -> str:
        return _start_of_keys(self.queue(partition)) + what

    def _group_key(self, what: str) -> str:
        return self._key(INGRESS, what)

    @property
    def group_meta(self) -> str:
        return self._group_key("group")

    @property
    def older_group_meta(self) -> str:
        """Where layout 1, which no release has, kept the same."""
        return f"{self.root}:group"

    @staticmethod
    def computation_field(name: str) -> str:
        """Of `group_meta`."""
        return _COMPUTATION + name

    @staticmethod
    def computations_in(group_meta: Iterable[bytes]) -> tuple[str, ...]:
        """The computations that ever ran in a group, by the fields of its hash."""
        start = _COMPUTATION.encode()
        return tuple(field[len(start) :].decode("utf-8", "replace") for field in group_meta if field.startswith(start))

    @property
    def workers(self) -> str:
        return self._group_key("workers")

    @property
    def pins(self) -> str:
        return self._group_key("pins")

    @property
    def owners(self) -> str:
        return self._group_key("owners")

    @property
    def since(self) -> str:
        return self._group_key("since")

    @property
    def changed(self) -> str:
        return self._group_key("changed")

    @property
    def audit(self) -> str:
        return self._group_key("audit")

    @property
    def draining(self) -> str:
        return self._group_key("draining")

    @property
    def measurements(self) -> str:
        return self._group_key("measurements")

    @property
    def policies(self) -> str:
        return self._group_key("policies")

    def sink_group(self, name: str) -> str:
        """The group, of one partition, whose worker delivers to a sink that is outside Redis.

        A name that ends as a partition's queue does, `out.0`, is escaped: it would be the queue of the sink `out`. So are braces, which
        would be a hash tag.
        """
        escaped = name.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        return f"{self.group}.sink.{_NUMBER_AT_END.sub('%2E', escaped)}"

    def source(self, name: str, run: str | None = None) -> str:
        """How far a source's process is; `run`: of one process of many."""
        return self._group_key(f"source:{name}") if run is None else self._group_key(f"source:{name}:{run}")

    def meta(self, partition: str) -> str:
        return self._key(partition, "meta")

    def states(self, partition: str, computation: str) -> str:
        return self._key(partition, f"state:{computation}")

    def delayed(self, partition: str) -> str:
        return self._key(partition, "delayed")

    def parked(self, partition: str) -> str:
        return self._key(partition, "parked")

    def mailbox(self, partition: str, key: str) -> bytes:
        """Bytes, because a key may be any bytes."""
        return self._key(partition, "mailbox:").encode() + key.encode("utf-8", "surrogateescape")

    def dead(self, partition: str) -> str:
        return self._key(partition, "dead")

    def dead_raw(self, partition: str) -> str:
        return self._key(partition, "dead:raw")

    def isolation(self, partition: str) -> str:
        return self._key(partition, "isolation")

    def commits(self, partition: str) -> str:
        return self._key(partition, "commits")

    def deduplication(self, partition: str, computation: str, age: Literal["young", "old"]) -> str:
        return self._key(partition, f"seen:{age}:{computation}")


def partitions_and_ingress(partitions: int) -> list[str]:
    """All that can be leased: each partition, and the ingress."""
    return [str(number) for number in range(partitions)] + [INGRESS]


@lru_cache(maxsize=10_000)
def _start_of_keys(queue: str) -> str:
    head, tail = _around(queue)
    return f"{head}{queue}{tail}:"


def queue_lists(names: Names, partition: str) -> list[str]:
    """The queue of a partition, and the lists where kombu's default options put its messages with a priority."""
    queue = names.queue(partition)
    return [queue, *(queue + suffix for suffix in PRIORITY_SUFFIXES)]


def _around(queue: str) -> tuple[str, str]:
    """What makes a hash tag of a queue's name. Nothing when the name has a tag of its own (`{app}:partition.3`): that decides its slot."""
    start = queue.find("{")
    end = queue.find("}", start + 1) if start >= 0 else -1
    return ("", "") if end > start + 1 else ("{", "}")


def _escaped(text: str) -> str:
    """For SCAN, which reads some characters as patterns."""
    return re.sub(r"([\[\]*?^\\])", r"\\\1", text)
