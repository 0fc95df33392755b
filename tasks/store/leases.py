"""Leases: which worker holds which partition, and with which fencing token.

`balance` assigns partitions to workers, on the group's keys. An assignment is only advice. A worker holds a partition once it has claimed it
on the partition's own keys and got a fencing token. A commit with any other token is refused. A worker's leases last as long as its entry in
`names.workers`, so one renewal renews them all. All times are by the server's clock.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import redis

from celery_partitions.model.topology import Topology
from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.names import INGRESS, Names, queue_lists
from celery_partitions.store.scripts import script
from celery_partitions.store.topology import read_topology, topology_command, topology_of
from celery_partitions.store.worker_code import Refusal, WorkerCode, refusal, still_refused

#: Of a worker that only holds leases.
UNKNOWN_CODE = WorkerCode()
#: Renewals per lease: two may fail before it ends.
RENEWALS_PER_LEASE = 3
#: How long after the end of another worker's lease to look again. Longer than the resolution of a clock.
GRACE_SECONDS = 0.02
#: How long a partition stays with workers that know a task, after its messages had to wait for one. A deploy may take as long.
WANTED_SECONDS = 600
#: Partitions in one call of `look_at_held`, so that it blocks the server for a few milliseconds at most.
PARTITIONS_IN_ONE_LOOK = 500


@dataclass(frozen=True, slots=True)
class Lease:
    """A partition, and its holder's fencing token."""

    partition: str
    token: int
    #: During a resize: the holder takes messages from the partition's inbox, not from its queue.
    inbox: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker holds after a call of `balance`."""

    #: Partition → fencing token.
    owned: Mapping[str, int]
    #: Partitions of `owned` beyond its share. The worker releases them after their batch.
    give_up: tuple[str, ...]
    #: Seconds until the first lease of another worker ends, unless renewed. None if there is no other worker.
    next_end_seconds: float | None
    #: Partition of `owned` → edit version. If it increased since the last batch, an operator changed something.
    edit_versions: Mapping[str, int] = field(default_factory=dict)
    #: Partitions of `owned` that are paused.
    paused: frozenset[str] = frozenset()
    #: Computation → JSON of an operator's `PolicyChange`.
    policies: Mapping[str, bytes] = field(default_factory=dict)
    #: Of the tasks that this worker lacks, those that another living worker knows.
    known_elsewhere: frozenset[str] = frozenset()
    #: Partition assigned to the worker that it can't claim → the error.
    faults: Mapping[str, str] = field(default_factory=dict)
    #: The group's topology, read after the tokens.
    topology: Topology | None = None
    #: Partitions of `owned` whose inbox is not empty.
    with_inbox: frozenset[str] = frozenset()
    #: Partition that the worker may not have → why its code cannot read it.
    refused: Mapping[str, Refusal] = field(default_factory=dict)

    def surplus(self, gone: Container[tuple[str, int]]) -> dict[str, int]:
        """The partitions to release, with their tokens: those beyond the share, and those that the worker has `gone` from.

        The worker no longer runs the partitions in `gone`, but they are still its own in Redis: the release was lost, or the server went
        back to older data. No other worker would take them, so they are released again. If this share is merely older than the release,
        releasing again does nothing.
        """
        return {
            partition: token for partition, token in self.owned.items() if partition in self.give_up or (partition, token) in gone
        }


def balance(
    client: redis.Redis,
    names: Names,
    worker: str,
    *,
    lease_seconds: float,
    partitions: int,
    pins: Iterable[str] = (),
    isolate_messages: int = 0,
    tasks: Iterable[str] = (),
    lacks: Iterable[tuple[str, str]] = (),
    code: WorkerCode = UNKNOWN_CODE,
    refused: Iterable[str] = (),
    before: Share | None = None,
) -> Share:
    """Renew the leases, claim assigned partitions, and learn which to release. Called every third of a lease, and after a message on
    `names.changed`.

    `partitions`: their number, if the group does not exist. `isolate_messages`: how many messages to run in isolation in a partition whose owner died without releasing it. `tasks`: the names of the
    tasks and computations that this worker knows. `lacks`: partitions of its own where messages of a task wait that it does not know, with
    the task's name. `code`: the states that it can read. `refused`: the partitions that were refused to it before, because it cannot.
    `before`: the share before this one; of a partition whose server can't be reached, it holds what it held.
    """
    waiting = [word.encode("utf-8", "backslashreplace") for pair in lacks if "\n" not in pair[1] for word in pair]
    still = still_refused(client, names, code, refused)
    keys = [names.workers, names.pins, names.owners, names.since, names.policies, names.draining, names.tasks, names.wanted, names.reads]
    next_end, found, give_up, policies, known = script("balance").run(
        client,
        [*keys, names.refused, names.group_meta],
        [
            worker, round(lease_seconds * 1000), ",".join(pins), partitions, names.changed,
            "\n".join(("", *sorted(tasks), "")), WANTED_SECONDS * 1000, code.json, ",".join(still), *waiting,
        ],
    )
    assigned = {found[at].decode(): int(found[at + 1]) for at in range(0, len(found), 2)}
    strays = 0
    if names.is_spread:  # a resize shows one renewal later, which does no harm
        last = None if before is None else before.topology
        strays = (last or read_topology(client, names, partitions)).served
    # Read after the tokens, so that it is no older than they are, nor than what holders before followed: nothing goes back.
    held, topology = _look_at_held(client, names, worker, assigned, before, strays)
    missing = {partition: since for partition, since in assigned.items() if partition not in held}
    claims = _Claims()
    if missing:
        claims, topology = _claim(client, names, worker, missing, isolate_messages, code)
        held |= claims.held
    words = iter(policies)
    return Share(
        owned={partition: one.token for partition, one in held.items()},
        give_up=tuple(partition.decode() for partition in give_up),
        next_end_seconds=None if next_end < 0 else next_end / 1000,
        edit_versions={partition: one.edit_version for partition, one in held.items()},
        paused=frozenset(partition for partition, one in held.items() if one.paused),
        policies={name.decode("utf-8", "replace"): text for name, text in zip(words, words, strict=True)},
        known_elsewhere=frozenset(task.decode("utf-8", "replace") for task in known),
        faults=claims.faults,
        topology=topology_of(names, topology, partitions),
        with_inbox=frozenset(partition for partition, one in held.items() if one.has_inbox),
        refused=still | claims.refused,
    )


@dataclass(frozen=True, slots=True)
class _Held:
    token: int
    edit_version: int
    paused: bool
    has_inbox: bool = False


@dataclass(frozen=True, slots=True)
class _Claims:
    """The answers to claims, by partition."""

    held: dict[str, _Held] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)


def _look_at_held(
    client: redis.Redis, names: Names, worker: str, assigned: Iterable[str], before: Share | None, strays: int
) -> tuple[dict[str, _Held], Any]:
    """The assigned partitions that the worker holds already; and the answer for `topology_of`, from the same round trip. Also moves messages with a
    priority into their queues. `strays`: on several servers, how many partitions may have messages on the control server; they go into the ingress.
    """
    held, wanted = {}, list(assigned)
    together = 1 if names.is_spread else PARTITIONS_IN_ONE_LOOK
    pages = [wanted[start : start + together] for start in range(0, len(wanted), together)]
    calls = []
    for some in pages:
        keys = _keys_of(names, tuple(some), strays if INGRESS in some else 0)
        calls.append((keys, [worker, len(keys) // len(some)]))
    *answers, topology = script("look_at_held").run_many(client, calls, topology_command(names))
    for some, answer in zip(pages, answers, strict=True):
        if isinstance(answer, Exception):
            if names.is_spread and isinstance(answer, SERVER_ERRORS):
                for partition in some:
                    if before is not None and partition in before.owned:
                        paused = partition in before.paused
                        held[partition] = _Held(before.owned[partition], before.edit_versions.get(partition, 0), paused)
                continue
            raise answer
        for at, partition in enumerate(some):
            token, edit_version, paused, has_inbox = answer[4 * at : 4 * at + 4]
            if token:
                held[partition] = _Held(int(token), int(edit_version), bool(paused), bool(has_inbox))
    return held, topology


@lru_cache(maxsize=64)
def _keys_of(names: Names, some: tuple[str, ...], strays: int) -> list[str]:
    """The KEYS of `look_at_held`. Cached, because a share seldom changes.

    A Celery producer that names a partition's queue pushes to it on the control server, where no partition is. The ingress takes these messages.
    """
    keys = [key for partition in some for key in (names.meta(partition), names.inbox(partition), *queue_lists(names, partition))]
    return keys + [names.queue(str(number)) for number in range(strays)]


def _claim(
    client: redis.Redis, names: Names, worker: str, assigned: Mapping[str, int], isolate_messages: int, code: WorkerCode
) -> tuple[_Claims, Any]:
    """Claim each partition on its own keys, all in one round trip. Also returns the answer for `topology_of`, read after that."""
    calls = []
    for partition, since in assigned.items():
        words: list[Any] = [worker, since, isolate_messages, *code.words, ""]
        if partition == INGRESS:  # it has no states
            calls.append(([names.meta(partition)], words))
        else:
            calls.append(([names.meta(partition), *_renamed_keys(names, partition, code)], words + code.renames))
    if code.renamed:
        shared: list[tuple[list[Any], list[Any]]] = [([names.shared_rates(former), names.shared_rates(name)], []) for former, name in code.renamed.items()]
        script("rename_buckets").run_many(client, shared)
    made, superseded = _Claims(), {}
    *answers, topology = script("claim").run_many(client, calls, topology_command(names))
    if names.is_spread:  # it came from another server, maybe before a claim: what the last holder sent by a newer topology must not be followed by what is sent by this one
        topology = client.execute_command(*topology_command(names))
    for partition, answer in zip(assigned, answers, strict=True):
        if isinstance(answer, Exception):
            made.faults[partition] = f"Redis key {names.meta(partition)}: {answer}"
        elif answer[0] == b"ok":
            made.held[partition] = _Held(int(answer[1]), int(answer[2]), bool(answer[3]))
        elif answer[0] == b"unreadable":
            made.refused[partition] = refusal(code, answer[1], answer[2])
        else:
            superseded[partition] = int(answer[1])
    if superseded or made.refused:
        # If this worker is still the assigned one, `balance` assigns a superseded partition again, with a higher number.
        _unassign(client, names, worker, superseded | dict.fromkeys(made.refused, 0))
    return made, topology


def _renamed_keys(names: Names, partition: str, code: WorkerCode) -> list[str]:
    """The keys that `claim` renames."""
    return [
        key
        for pair in code.renamed.items()
        for name in pair
        for key in (
            names.states(partition, name),
            names.deduplication(partition, name, "young"),
            names.deduplication(partition, name, "old"),
            names.rates(partition, name),
        )
    ]


def release(client: redis.Redis, names: Names, worker: str, leases: Mapping[str, int], *, leave: bool = False) -> int:
    """Release leases. With `leave`, the worker also stops being a member. Returns how many leases it still held.

    The partitions' own keys are released before the assignments. So the next worker finds no holder, and knows that no worker died.
    """
    calls = [([names.meta(partition), names.isolation(partition)], [worker, token]) for partition, token in leases.items()]
    answers = dict(zip(leases, script("release").run_many(client, calls), strict=True))
    released = [partition for partition, answer in answers.items() if answer == 1]
    if released or leave:
        _unassign(client, names, worker, dict.fromkeys(released, 0), leave=leave)
    return len(released)


def _unassign(client: redis.Redis, names: Names, worker: str, after: Mapping[str, int], *, leave: bool = False) -> None:
    """Remove assignments. `after`: partition → a number; the next assignment gets a higher one."""
    flat: list[str | int] = [word for pair in after.items() for word in pair]
    script("unassign").run(
        client,
        [names.workers, names.pins, names.owners, names.since, names.draining, names.tasks, names.reads, names.refused],
        [worker, "leave" if leave else "", names.changed, *flat],
    )


def leases_of(client: redis.Redis, names: Names, worker: str) -> dict[str, int]:
    """The partitions that a worker holds, with their fencing tokens."""
    owners = cast(Mapping[bytes, bytes], client.hgetall(names.owners))
    assigned = [partition.decode() for partition, owner in owners.items() if owner == worker.encode()]
    with client.pipeline(transaction=False) as pipe:
        for partition in assigned:
            pipe.hmget(names.meta(partition), ["token", "holder"])
        answers = pipe.execute(raise_on_error=False)
    return {
        partition: int(answer[0])
        for partition, answer in zip(assigned, answers, strict=True)
        if isinstance(answer, list) and answer[1] == worker.encode()
    }


def remember_computations(client: redis.Redis, names: Names, computations: Iterable[str]) -> None:
    """Note which computations exist, so that a process without their code can show status and keys."""
    fields: dict[Any, Any] = {names.computation_field(name): 1 for name in computations}
    if fields:
        client.hset(names.group_meta, mapping=fields)
