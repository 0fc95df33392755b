"""Every key and queue name in Redis is made here.

partition.<i>                      list   the queue of partition i; oldest message on the right
partition                          list   the ingress
partition.<i>\\x06\\x16<3|6|9>        list   where kombu's default options put messages with a priority
partition:group                    hash   partitions = N; computation:<name> = 1 for each that ever ran
partition:workers                  zset   worker id → until when its leases hold (ms, server clock)
partition:pins                     hash   worker id → the partitions it was pinned to, comma-separated
partition:owners                   hash   unit → worker id           (a unit is a partition's number, or `ingress`)
partition:since                    hash   unit → when its owner took it (ms)
partition:tokens                   hash   unit → fencing token, grows with each owner and each release (µs, server clock, when claimed)
partition:changed                  channel: membership, ownership, or something that an operator changed
partition:policies                 hash   computation → JSON, what an operator changed of its failure policy
partition:<unit>:facts             hash   position, revision, paused, suspect (messages to be run one by one after a worker
                                          died), seen:<name> (when its young ids begin, ms), counters (processed, failed, …)
partition:<unit>:state:<name>      hash   key → state bytes
partition:<unit>:later             zset   due (ms) → `<position>.<number>:<raw message>`
partition:<unit>:parked            hash   key → JSON {due, attempt, error, letter, …}
partition:<unit>:mailbox:<key>     list   a parked key's messages; oldest on the right
partition:<unit>:dead              hash   dead letter id → JSON
partition:<unit>:dead:raw          hash   dead letter id → the message itself, where it is too long to stand in the JSON
partition:<unit>:tries             hash   SHA-1 of a message run alone → `<token>:<deaths>`, or `hang:<why>`
partition:<unit>:commits           list   JSON, the newest commits (tasks/model/recent_commits.py); newest on the left
partition:<unit>:seen:<age>:<name> set    message ids, of a computation that drops duplicates; age: young, old
partition:audit                    stream what operators did: at (its id), who, what, detail (JSON); bounded
partition:measurements             hash   unit → JSON, what workers measured (tasks/model/measurements.py)
partition:draining                 hash   worker id → when an operator told it to give its partitions up (ms)
partition:source:<name>            hash   how far a source's process is: number (of pushes), position, ended; owner, token, until (ms)
partition:source:<name>:<run>      hash   number (of pushes) of one process of a source that has no position; expires
partition.sink.<name>              the group, of one partition, of a sink that a process delivers to: all names above, again
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

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

    @property
    def root(self) -> str:
        return self.prefix + self.group

    def queue_name(self, unit: str) -> str:
        """The queue as Celery names it, without the key prefix that kombu adds by itself."""
        return self.group if unit == INGRESS else f"{self.group}.{unit}"

    def queue(self, unit: str) -> str:
        return self.prefix + self.queue_name(unit)

    def unit_of(self, queue_name: str) -> str | None:
        """The unit of a queue named as Celery names it; None when it is not of this group."""
        if queue_name == self.group:
            return INGRESS
        start, _, number = queue_name.rpartition(".")
        return number if start == self.group and _IS_NUMBER.fullmatch(number) else None

    def is_no_queue(self, queue_name: str) -> bool:
        """Whether what Celery would take for a queue's name is one of the group's other keys, or of a sink's group."""
        rest = queue_name.removeprefix(self.group)
        return rest != queue_name and (rest.startswith(":") or (rest.startswith(".sink.") and ":" in rest))

    @property
    def facts_of_group(self) -> str:
        return f"{self.root}:group"

    @staticmethod
    def computation_field(name: str) -> str:
        """Of `facts_of_group`."""
        return _COMPUTATION + name

    @staticmethod
    def computations_in(facts_of_group: Iterable[bytes]) -> tuple[str, ...]:
        """The computations that ever ran in a group, by the fields of its hash."""
        start = _COMPUTATION.encode()
        return tuple(field[len(start) :].decode("utf-8", "replace") for field in facts_of_group if field.startswith(start))

    @property
    def workers(self) -> str:
        return f"{self.root}:workers"

    @property
    def pins(self) -> str:
        return f"{self.root}:pins"

    @property
    def owners(self) -> str:
        return f"{self.root}:owners"

    @property
    def since(self) -> str:
        return f"{self.root}:since"

    @property
    def tokens(self) -> str:
        return f"{self.root}:tokens"

    @property
    def changed(self) -> str:
        return f"{self.root}:changed"

    @property
    def audit(self) -> str:
        return f"{self.root}:audit"

    @property
    def draining(self) -> str:
        return f"{self.root}:draining"

    @property
    def measurements(self) -> str:
        return f"{self.root}:measurements"

    @property
    def policies(self) -> str:
        return f"{self.root}:policies"

    def sink_group(self, name: str) -> str:
        """The group, of one partition, whose worker delivers to a sink that is outside Redis.

        A name that ends as a partition's queue does, `out.0`, is escaped: it would be the queue of the sink `out`.
        """
        return f"{self.group}.sink.{_NUMBER_AT_END.sub('%2E', name.replace('%', '%25'))}"

    def source(self, name: str, run: str | None = None) -> str:
        """How far a source's process is; `run`: of one process of many."""
        return f"{self.root}:source:{name}" if run is None else f"{self.root}:source:{name}:{run}"

    def facts(self, unit: str) -> str:
        return f"{self.root}:{unit}:facts"

    def states(self, unit: str, computation: str) -> str:
        return f"{self.root}:{unit}:state:{computation}"

    def later(self, unit: str) -> str:
        return f"{self.root}:{unit}:later"

    def parked(self, unit: str) -> str:
        return f"{self.root}:{unit}:parked"

    def mailbox(self, unit: str, key: str) -> bytes:
        """Bytes, because a key may be any bytes."""
        return f"{self.root}:{unit}:mailbox:".encode() + key.encode("utf-8", "surrogateescape")

    def dead(self, unit: str) -> str:
        return f"{self.root}:{unit}:dead"

    def dead_raw(self, unit: str) -> str:
        return f"{self.root}:{unit}:dead:raw"

    def tries(self, unit: str) -> str:
        return f"{self.root}:{unit}:tries"

    def commits(self, unit: str) -> str:
        return f"{self.root}:{unit}:commits"

    def seen(self, unit: str, computation: str, age: Literal["young", "old"]) -> str:
        return f"{self.root}:{unit}:seen:{age}:{computation}"


def units(partitions: int) -> list[str]:
    """All that can be leased: each partition, and the ingress."""
    return [str(number) for number in range(partitions)] + [INGRESS]
