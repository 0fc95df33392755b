"""Makes every key and queue name in Redis. The list below is the data model.

A queue is a plain Celery queue. Every other key of a partition is `{<queue>}:<what>`. The braces are a Redis hash tag, so a queue and
its keys share one cluster slot. kombu's `global_keyprefix` is part of the queue's name, so it is inside the braces.
The ingress is a partition too. Its queue has the group's name, so its keys share a slot with the group's keys.

Keys of one partition, here `partition.3`:

partition.3                         list   the queue; the oldest message is rightmost
partition.3\\x06\\x16<3|6|9>          list   messages with a priority, where kombu's default options put them (in another slot)
{partition.3}:inbox                 list   during a resize, a partition that gets keys works on this list; `admit` adds its queue's messages to it
{partition.3}:meta                  hash   token: fencing token; increases with each claim and each release (µs, server clock)
                                           holder: id of the worker that got the token; absent after a release
                                           since: number of the holder's assignment, as in {partition}:since
                                           commit_number: number of commits so far
                                           edit_version: number of operators' edits so far
                                           epoch: that of the topology by which its keys are applied (absent: 0)
                                           moved: the epoch up to which its keys for other partitions have left
                                           returned: see lua/follow_alone.lua
                                           mark: see lua/finish_resize.lua; mark of: lua/look_at_lists.lua
                                           removed: number of messages taken from its queue and inbox since its first epoch
                                           passed_on: when it last passed on a message of a former number of partitions (ms)
                                           paused: 1 (by an operator or a policy), or the name of what paused it (an export)
                                           to_isolate: number of messages to run in isolation after a worker died
                                           seen:<computation>: when the set of young ids was started (ms)
                                           version:<computation>: the highest version of its states written here, if above 1;
                                           or `renamed to <computation>`
                                           timeline_bytes: how long all timelines are together
                                           takeovers: when it was last taken from a worker that had died (ms, space-separated, bounded)
                                           counters: processed, failed, emitted, …
{partition.3}:state:<computation>   hash   key → record (store/record.py) around the pickled state
{partition.3}:delayed               zset   due (ms) → `<commit number>.<index>:<raw message>`, or a timer's alarm: `@<task>` and a key, as JSON lines
{partition.3}:parked                hash   key → JSON {due, attempt, error, dead_letter, …}
{partition.3}:parked:due            zset   each of these keys → when it is due (ms); +inf: it waits for an operator
{partition.3}:mailbox:<key>         list   a parked key's messages; the oldest is rightmost
{partition.3}:rates:<computation>   zset   buckets of a rate limit per key (lua/take_tokens.lua)
{partition.3}:dead                  hash   dead letter id → JSON
{partition.3}:dead:raw              hash   dead letter id → raw message, if it is too long for the JSON
{partition.3}:isolation             hash   SHA-1 of a message that runs in isolation → `<token>:<deaths>:<stalls>`, or `hang:<why>`
{partition.3}:timelines             hash   key → what its last commits changed, newest first (store/timelines.py); bounded, expires
{partition.3}:timelines:order       zset   each of these keys → its last change (ms), plus 2⁴² if it failed and waits
{partition.3}:commits               list   JSON of the newest commits (store/recent_commits.py); the newest is leftmost
{partition.3}:history:<fine|coarse> list   points of the last hour, and of the last two days (store/history.py); the newest is leftmost
{partition.3}:seen:<age>:<computation>
                                    set    message ids, for a computation with deduplication; age: young or old

With `PARTITIONS_URL`, these keys of numbered partitions are on the partitions' servers, and everything else is on the control server. What
would need both is named otherwise:

{partition.3}:priority:<3|6|9>      list   instead of partition.3\\x06\\x16<3|6|9>; always empty
{partition.3}:audit                 stream operators' actions on the partition
{partition.3}:outbox                list   what commits send to other servers (store/outbox.py); the oldest is leftmost
{partition.3}:outbox:tails          hash   target → tail of the last entry that was sent to it
{partition.3}:received              hash   source → tail of the last entry that was received from it
{partition}:commits:3               list   instead of {partition.3}:commits

Keys of the group `partition`. The ingress also has the keys above, for example `{partition}:meta`:

{partition}:group                   hash   layout (store/topology.py)
                                           partitions: N
                                           epoch: increases when N changes
                                           former, highest: N before a resize that is not finished; the highest N ever
                                           back: 1 if that resize undoes another; mark: see lua/finish_resize.lua
                                           resized: when the last resize began (ms)
                                           moving: how many partitions have not moved their keys; absent if none, or if the resize undoes another
                                           settled: when the last of them had moved (ms)
                                           computation:<name>: 1 for each computation that ever ran
                                           follow-up secret: proves that a worker wrote a follow-up (store/follow_ups.py)
{partition}:workers                 zset   worker id → when its leases end (ms, server clock)
{partition}:pins                    hash   worker id → the partitions pinned to it, comma-separated
{partition}:owners                  hash   partition → id of the worker it is assigned to (the partition is its number, or `ingress`)
{partition}:since                   hash   partition → when it was assigned (µs, server clock); increases with each assignment
{partition}:changed                 channel: members, owners or something that an operator edits has changed
{partition}:policies                hash   computation → JSON of an operator's changes to its failure policy
{partition}:rates:<computation>     zset   buckets of a rate limit with `rate_limit_key=`, which all partitions share
{partition}:audit                   stream operators' actions: who, what, detail (JSON); the entry id is the time; bounded
{partition}:measurements            hash   partition → JSON of what workers measured (store/telemetry.py)
{partition}:computations            hash   computation, or `\\tsink ` and a sink in Redis → JSON of what workers measured, over all partitions (store/telemetry.py)
{partition}:history:<fine|coarse>:<computation>
                                    list   the same as a partition's history, for one computation
{partition}:retries                 hash   id of a retry of dead letters → JSON of how far it is (admin/retries.py)
{partition}:retried:<id>            set    the ids of its messages; expires
{partition}:reports                 hash   worker id → JSON of what the worker reports about itself (store/worker_reports.py)
{partition}:draining                hash   worker id → when an operator drained it (ms)
{partition}:tasks                   hash   worker id → the tasks and computations that it knows, one a line
{partition}:wanted                  hash   partition → until when (ms), and a task: its holder did not know it, and another worker did
{partition}:epochs                  hash   worker id → epoch of the topology that it follows
{partition}:moved                   hash   with PARTITIONS_URL: partition → the epoch up to which its keys for other partitions have arrived
{partition}:reads                   hash   worker id → JSON: computation → highest version of its states that the worker can read
{partition}:refused                 hash   worker id → the partitions whose states it cannot read, comma-separated (store/worker_code.py)
{partition}:source:<name>           hash   progress of a source: number (of pushes), position, ended; its lease: owner, token, until (ms)
{partition}:source:<name>:<run>     hash   number (of pushes) of one process of a source without a position; expires

partition.sink.<name>               name of a group with one partition, for a sink that is outside Redis; it has all the keys above
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from celery_partitions.model.errors import SetupError

INGRESS = "ingress"
#: Of a history: a point every ten seconds, or every five minutes.
Resolution = Literal["fine", "coarse"]

#: kombu's Redis transport, default priority steps 3, 6, 9 (0 is the queue's own name).
PRIORITY_SUFFIXES = ("\x06\x163", "\x06\x166", "\x06\x169")

_COMPUTATION = "computation:"
_VERSION = "version:"
#: Without leading zeros: `partition.03` is not a queue of the group.
_IS_NUMBER = re.compile(r"0|[1-9][0-9]*")
_NUMBER_AT_END = re.compile(r"\.(?=[0-9]+$)")


class _GroupKey:
    """A key of the group, as an attribute of `Names`."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __get__(self, names: Names, owner: type[Names]) -> str:
        return names.key(INGRESS, self.what)


def _partition_key(what: str) -> Callable[[Names, str], str]:
    """A key of a partition, as a method of `Names`."""

    def key(names: Names, partition: str) -> str:
        return names.key(partition, what)

    return key


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one partition group. `prefix` is kombu's `global_keyprefix`, which kombu adds to queues."""

    group: str
    prefix: str = ""
    #: Whether numbered partitions are on other servers than the group's keys (`PARTITIONS_URL`).
    is_spread: bool = False

    # Keys of the group.
    group_meta = _GroupKey("group")
    workers = _GroupKey("workers")
    pins = _GroupKey("pins")
    owners = _GroupKey("owners")
    since = _GroupKey("since")
    changed = _GroupKey("changed")
    audit = _GroupKey("audit")
    draining = _GroupKey("draining")
    tasks = _GroupKey("tasks")
    wanted = _GroupKey("wanted")
    epochs = _GroupKey("epochs")
    moved = _GroupKey("moved")
    reads = _GroupKey("reads")
    refused = _GroupKey("refused")
    measurements = _GroupKey("measurements")
    computations = _GroupKey("computations")
    reports = _GroupKey("reports")
    policies = _GroupKey("policies")
    retries = _GroupKey("retries")

    # Keys of a partition: call with the partition.
    meta = _partition_key("meta")
    inbox = _partition_key("inbox")
    outbox = _partition_key("outbox")
    outbox_tails = _partition_key("outbox:tails")
    received = _partition_key("received")
    delayed = _partition_key("delayed")
    parked = _partition_key("parked")
    parked_due = _partition_key("parked:due")
    dead = _partition_key("dead")
    dead_raw = _partition_key("dead:raw")
    isolation = _partition_key("isolation")
    timelines = _partition_key("timelines")
    timelines_order = _partition_key("timelines:order")

    def __post_init__(self) -> None:
        if "}" in self.root and _around(self.root)[0]:
            raise SetupError(
                f"queue names can't begin with {self.root!r}: a }} without a {{ and text before it breaks Redis hash tags. "
                "Change global_keyprefix in broker_transport_options, or the group's name"
            )

        if self.is_spread and _around(self.root) == ("", ""):
            raise SetupError(
                f"queue names can't begin with {self.root!r} with PARTITIONS_URL: its own hash tag would put all partitions into one slot. Change "
                "global_keyprefix in broker_transport_options, or the group's name"
            )

    @property
    def root(self) -> str:
        return self.prefix + self.group

    def queue_name(self, partition: str) -> str:
        """The queue's name in Celery, without the key prefix that kombu adds."""
        return self.group if partition == INGRESS else f"{self.group}.{partition}"

    def queue(self, partition: str) -> str:
        return self.prefix + self.queue_name(partition)

    def partition_of_queue(self, queue_name: str) -> str | None:
        """The partition of a queue, by its name in Celery. None if the queue belongs to another group."""
        if queue_name == self.group:
            return INGRESS
        start, _, number = queue_name.rpartition(".")
        return number if start == self.group and _IS_NUMBER.fullmatch(number) else None

    def is_for_partition_workers(self, queue_name: str) -> bool:
        """Whether only partition workers may consume a queue, by its name in Celery: a queue of the group, or of one of its sinks."""
        return self.partition_of_queue(queue_name) is not None or queue_name.startswith(f"{self.group}.sink.")

    def is_no_queue(self, queue_name: str) -> bool:
        """Whether a queue with this name (in Celery) would collide with another key of the group, or with a sink's group."""
        full, (head, tail) = self.prefix + queue_name, _around(self.root)
        if not full.startswith(head + self.root):
            return False
        rest = full[len(head + self.root) :]
        return rest.startswith(f"{tail}:") or (rest.startswith(".") and f"{tail}:" in rest)

    def priority_lists(self, partition: str) -> list[str]:
        """The lists where kombu's default options put messages with a priority. In a cluster they would be in other slots; kombu does not reach
        those servers, so names in the partition's slot stand for them."""
        if self.is_spread and partition != INGRESS:
            return [self.key(partition, f"priority:{suffix[-1]}") for suffix in PRIORITY_SUFFIXES]
        return [self.queue(partition) + suffix for suffix in PRIORITY_SUFFIXES]

    def owns(self, key: bytes) -> bool:
        """Whether a Redis key belongs to this group. Another group's name may begin with this one's and a dot."""
        name = key.decode("utf-8", "surrogateescape")
        head, tail = _around(self.root)
        queue = name.partition("\x06")[0]
        if name.startswith(head + self.root):
            end = name.find(f"{tail}:", len(head + self.root))
            queue = name[len(head) : end] if end >= 0 else queue
        return queue.startswith(self.prefix) and self.partition_of_queue(queue.removeprefix(self.prefix)) is not None

    def patterns(self) -> tuple[str, ...]:
        """Patterns for SCAN. Every key of the group matches one of them. Keys of other groups may match too: check with `owns`."""
        head, tail = _around(self.root)
        start = _escaped(head + self.root)
        queues = _escaped(self.root)
        return (queues, f"{queues}[.\x06]*", f"{start}{_escaped(tail)}:*", f"{start}.*")

    def key(self, partition: str, what: str) -> str:
        """The key `what` of a partition."""
        return _start_of_keys(self.queue(partition)) + what

    def _group_key(self, what: str) -> str:
        return self.key(INGRESS, what)

    @property
    def older_group_meta(self) -> str:
        """The same hash in layout 1, which was never released."""
        return f"{self.root}:group"

    @staticmethod
    def computation_field(name: str) -> str:
        """The field of `group_meta` that notes a computation."""
        return _COMPUTATION + name

    @staticmethod
    def computations_in(group_meta: Iterable[bytes]) -> tuple[str, ...]:
        """The computations that ever ran in a group, from the fields of `group_meta`."""
        start = _COMPUTATION.encode()
        return tuple(field[len(start) :].decode("utf-8", "replace") for field in group_meta if field.startswith(start))

    def audit_of(self, partition: str) -> str:
        """The audit that a script on a partition's keys writes: the group's, or one on the partition's server."""
        return self.key(partition, "audit") if self.is_spread else self.audit

    @staticmethod
    def version_field(computation: str) -> str:
        """The field of `meta` with the highest version of a computation's states."""
        return _VERSION + computation

    @staticmethod
    def computation_of_version(field: str) -> str:
        return field.removeprefix(_VERSION)

    def sink_group(self, name: str) -> str:
        """The name of the one-partition group whose worker delivers to a sink outside Redis.

        A name that ends in a number, such as `out.0`, is escaped, because it would be the queue of the sink `out`. Braces are escaped,
        because they would make a hash tag.
        """
        escaped = name.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        return f"{self.group}.sink.{_NUMBER_AT_END.sub('%2E', escaped)}"

    def source(self, name: str, run: str | None = None) -> str:
        """The key with a source's progress. `run`: one of several processes that read the source."""
        return self._group_key(f"source:{name}") if run is None else self._group_key(f"source:{name}:{run}")

    def states(self, partition: str, computation: str) -> str:
        return self.key(partition, f"state:{computation}")

    def mailbox(self, partition: str, key: str) -> bytes:
        """The key is bytes, because a message's key may be any bytes."""
        return self.key(partition, "mailbox:").encode() + key.encode("utf-8", "surrogateescape")

    def rates(self, partition: str, computation: str) -> str:
        return self.key(partition, f"rates:{computation}")

    def shared_rates(self, computation: str) -> str:
        return self._group_key(f"rates:{computation}")

    def commits(self, partition: str) -> str:
        # With the group's measurements, because one script writes both.
        return self._group_key(f"commits:{partition}") if self.is_spread else self.key(partition, "commits")

    def history(self, partition: str, resolution: Resolution) -> str:
        return self.key(partition, f"history:{resolution}")

    def computation_history(self, computation: str, resolution: Resolution) -> str:
        return self._group_key(f"history:{resolution}:{computation}")

    def retried(self, retry: str) -> str:
        return self._group_key(f"retried:{retry}")

    def deduplication(self, partition: str, computation: str, age: Literal["young", "old"]) -> str:
        return self.key(partition, f"seen:{age}:{computation}")


def partitions_and_ingress(partitions: int) -> list[str]:
    """Everything that can be leased: each partition, and the ingress."""
    return [str(number) for number in range(partitions)] + [INGRESS]


@lru_cache(maxsize=10_000)
def _start_of_keys(queue: str) -> str:
    head, tail = _around(queue)
    return f"{head}{queue}{tail}:"


def queue_lists(names: Names, partition: str) -> list[str]:
    """A partition's queue, and the lists where kombu's default options put messages with a priority."""
    return [names.queue(partition), *names.priority_lists(partition)]


def _around(queue: str) -> tuple[str, str]:
    """The braces that make a queue's name a hash tag. Empty if the name has its own tag (`{app}:partition.3`), which decides the slot."""
    start = queue.find("{")
    end = queue.find("}", start + 1) if start >= 0 else -1
    return ("", "") if end > start + 1 else ("{", "}")


def _escaped(text: str) -> str:
    """Escape the characters that SCAN reads as patterns."""
    return re.sub(r"([\[\]*?^\\])", r"\\\1", text)
