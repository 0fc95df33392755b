"""Leases: which worker holds which partition, and by which fencing token.

Who should hold what is decided at the group's keys (`balance`). It is advice. A worker holds a partition only when a claim on the partition's own
keys has given it a fencing token, and a commit is refused when that is not the partition's token any more. A worker's leases hold as long as its
entry among the workers does: one renewal renews all. Times are the server's.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import redis

from celery_partitions.store.names import Names, queue_lists
from celery_partitions.store.scripts import script

#: Renewals in one lease: two may be lost before it ends.
RENEWALS_PER_LEASE = 3
#: After another holder's lease should have ended, look this much later (longer than a clock's grain).
GRACE_SECONDS = 0.02
#: One call of `look_at_held` keeps the server busy for a few milliseconds at most.
PARTITIONS_IN_ONE_LOOK = 500


@dataclass(frozen=True, slots=True)
class Lease:
    """A partition and the token its holder was given."""

    partition: str
    token: int


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker holds after a call of `balance`."""

    #: Partition → fencing token.
    owned: Mapping[str, int]
    #: Partitions of `owned` that are more than its share, to be released after their batch.
    give_up: tuple[str, ...]
    #: Seconds until the first lease of another worker ends unless renewed; None when there is no other.
    next_end_seconds: float | None
    #: Partition of `owned` → edit version of its states; one that grew since the last batch: an operator changed something.
    edit_versions: Mapping[str, int] = field(default_factory=dict)
    #: Partitions of `owned` that are paused.
    paused: frozenset[str] = frozenset()
    #: Computation → JSON of a `PolicyChange`, as an operator wrote it.
    policies: Mapping[str, bytes] = field(default_factory=dict)
    #: Partitions that are assigned to the worker and can't be claimed → why.
    faults: Mapping[str, str] = field(default_factory=dict)

    def surplus(self, gone: Container[tuple[str, int]]) -> dict[str, int]:
        """What is to be released, partition → token: what is more than the share, and what is `gone` at the worker and its own here.

        Of that the release was lost, or the server went back to older data: nobody else would take it; released anew, it
        gets a new token. Where the share is only older than the release, releasing it again does nothing.
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
) -> Share:
    """Renew, claim what is assigned, and learn what to give up. Called every third of a lease, and when `names.changed` says so.

    `isolate_messages`: so many messages of a partition whose owner died without releasing it are to be run one by one.
    """
    next_end, found, give_up, policies = script("balance").run(
        client,
        [names.workers, names.pins, names.owners, names.since, names.policies, names.draining],
        [worker, round(lease_seconds * 1000), ",".join(pins), partitions, names.changed],
    )
    assigned = {found[at].decode(): int(found[at + 1]) for at in range(0, len(found), 2)}
    held = _look_at_held(client, names, worker, assigned)
    missing = {partition: since for partition, since in assigned.items() if partition not in held}
    claimed, faults = _claim(client, names, worker, missing, isolate_messages) if missing else ({}, {})
    held |= claimed
    words = iter(policies)
    return Share(
        owned={partition: one.token for partition, one in held.items()},
        give_up=tuple(partition.decode() for partition in give_up),
        next_end_seconds=None if next_end < 0 else next_end / 1000,
        edit_versions={partition: one.edit_version for partition, one in held.items()},
        paused=frozenset(partition for partition, one in held.items() if one.paused),
        policies={name.decode("utf-8", "replace"): text for name, text in zip(words, words, strict=True)},
        faults=faults,
    )


@dataclass(frozen=True, slots=True)
class _Held:
    token: int
    edit_version: int
    paused: bool


def _look_at_held(client: redis.Redis, names: Names, worker: str, assigned: Iterable[str]) -> dict[str, _Held]:
    """What the worker holds already of the partitions assigned to it. Also moves messages with a priority into their queues."""
    held, left = {}, list(assigned)
    while left:
        some, left = left[:PARTITIONS_IN_ONE_LOOK], left[PARTITIONS_IN_ONE_LOOK:]
        keys = _keys_of(names, tuple(some))
        answer = script("look_at_held").run(client, keys, [worker, len(keys) // len(some)])
        for at, partition in enumerate(some):
            token, edit_version, paused = answer[3 * at : 3 * at + 3]
            if token:
                held[partition] = _Held(int(token), int(edit_version), bool(paused))
    return held


@lru_cache(maxsize=64)
def _keys_of(names: Names, some: tuple[str, ...]) -> list[str]:
    """The KEYS of `look_at_held`. Kept, because a share seldom changes."""
    return [key for partition in some for key in (names.meta(partition), *queue_lists(names, partition))]


def _claim(
    client: redis.Redis, names: Names, worker: str, assigned: Mapping[str, int], isolate_messages: int
) -> tuple[dict[str, _Held], dict[str, str]]:
    """Claim each partition on its own keys, all in one round trip. Also returns what is wrong with the partitions that can't be claimed."""
    calls = [([names.meta(partition)], [worker, since, isolate_messages]) for partition, since in assigned.items()]
    held, superseded, faults = {}, {}, {}
    for partition, answer in zip(assigned, script("claim").run_many(client, calls), strict=True):
        if isinstance(answer, Exception):
            faults[partition] = f"Redis key {names.meta(partition)}: {answer}"
        elif answer[0] == b"ok":
            held[partition] = _Held(int(answer[1]), int(answer[2]), bool(answer[3]))
        else:
            superseded[partition] = int(answer[1])
    if superseded:  # where this worker is still the one that the group wants, it is assigned anew, and later than that
        _unassign(client, names, worker, superseded)
    return held, faults


def release(client: redis.Redis, names: Names, worker: str, leases: Mapping[str, int], *, leave: bool = False) -> int:
    """Give leases up; with `leave` the worker is no member any more. Returns how many were still its own.

    The partitions' own keys come first. A worker that is assigned one of them then finds no holder, and knows that nobody died.
    """
    calls = [([names.meta(partition), names.isolation(partition)], [worker, token]) for partition, token in leases.items()]
    answers = dict(zip(leases, script("release").run_many(client, calls), strict=True))
    released = [partition for partition, answer in answers.items() if answer == 1]
    if released or leave:
        _unassign(client, names, worker, dict.fromkeys(released, 0), leave=leave)
    return len(released)


def _unassign(client: redis.Redis, names: Names, worker: str, after: Mapping[str, int], *, leave: bool = False) -> None:
    """Take back assignments. `after`: partition → the number that its next assignment must be higher than."""
    flat: list[str | int] = [word for pair in after.items() for word in pair]
    script("unassign").run(
        client,
        [names.workers, names.pins, names.owners, names.since, names.draining],
        [worker, "leave" if leave else "", names.changed, *flat],
    )


def leases_of(client: redis.Redis, names: Names, worker: str) -> dict[str, int]:
    """What a worker holds: partition → fencing token."""
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
    """Note which computations exist, so that status and keys can be read by a process that has not their code."""
    fields: dict[Any, Any] = {names.computation_field(name): 1 for name in computations}
    if fields:
        client.hset(names.group_meta, mapping=fields)
