"""Leases: which worker holds which unit (a partition, or the ingress), and by which fencing token.

A worker's leases hold as long as its entry among the workers does: one renewal renews all. Times are the server's.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from celery_partitions.model.errors import SetupError
from celery_partitions.store.names import PRIORITY_SUFFIXES, Names
from celery_partitions.store.scripts import script

#: Renewals in one lease: two may be lost before it ends.
RENEWALS_PER_LEASE = 3
#: After another holder's lease should have ended, look this much later (longer than a clock's grain).
GRACE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Lease:
    """A unit and the token its holder was given."""

    unit: str
    token: int


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker holds after a call of `balance`."""

    #: Unit → fencing token.
    owned: Mapping[str, int]
    #: Units of `owned` that are more than its share, to be released after their batch.
    give_up: tuple[str, ...]
    #: Seconds until the first lease of another worker ends unless renewed; None when there is no other.
    next_end_seconds: float | None
    #: Unit of `owned` → revision of its states; one that grew since the last batch: an operator changed something.
    revisions: Mapping[str, int] = field(default_factory=dict)
    #: Units of `owned` that are paused.
    paused: frozenset[str] = frozenset()
    #: Computation → JSON of a `PolicyChange`, as an operator wrote it.
    policies: Mapping[str, bytes] = field(default_factory=dict)

    def surplus(self, gone: Container[tuple[str, int]]) -> dict[str, int]:
        """What is to be released, unit → token: what is more than the share, and what is `gone` at the worker and its own here.

        Of that the release was lost, or the server went back to older data: nobody else would take it; released anew, it
        gets a new token. Where the share is only older than the release, releasing it again does nothing.
        """
        return {
            unit: token for unit, token in self.owned.items() if unit in self.give_up or (unit, token) in gone
        }


def balance(
    client: redis.Redis,
    names: Names,
    worker: str,
    *,
    lease_seconds: float,
    partitions: int,
    pins: Iterable[str] = (),
    suspect_messages: int = 0,
) -> Share:
    """Renew, claim, and learn what to give up. Called every third of a lease, and when `names.changed` says so.

    `suspect_messages`: so many messages of a unit whose owner died without releasing it are to be run one by one.
    """
    next_end, owned, give_up, policies = script("balance").run(
        client,
        [names.workers, names.pins, names.owners, names.tokens, names.since, names.policies, names.draining],
        [
            worker,
            round(lease_seconds * 1000),
            ",".join(pins),
            partitions,
            names.changed,
            names.root,
            suspect_messages,
            *PRIORITY_SUFFIXES,
        ],
    )
    rows = [(owned[at].decode(), *map(int, owned[at + 1 : at + 4])) for at in range(0, len(owned), 4)]
    words = iter(policies)
    return Share(
        owned={unit: token for unit, token, _, _ in rows},
        give_up=tuple(unit.decode() for unit in give_up),
        next_end_seconds=None if next_end < 0 else next_end / 1000,
        revisions={unit: revision for unit, _, revision, _ in rows},
        paused=frozenset(unit for unit, _, _, paused in rows if paused),
        policies={name.decode("utf-8", "replace"): text for name, text in zip(words, words, strict=True)},
    )


def release(client: redis.Redis, names: Names, worker: str, leases: Mapping[str, int], *, leave: bool = False) -> int:
    """Give leases up; with `leave` the worker is no member any more. Returns how many were still its own."""
    flat: list[str | int] = [word for lease in leases.items() for word in lease]
    released: int = script("release").run(
        client,
        [names.workers, names.pins, names.owners, names.tokens, names.draining],
        [worker, "leave" if leave else "", names.changed, names.root, *flat],
    )
    return released


def leases_of(client: redis.Redis, names: Names, worker: str) -> dict[str, int]:
    """What a worker holds: unit → fencing token."""
    with client.pipeline(transaction=False) as pipe:
        pipe.hgetall(names.owners)
        pipe.hgetall(names.tokens)
        owners, tokens = pipe.execute()
    return {unit.decode(): int(tokens[unit]) for unit, owner in owners.items() if owner == worker.encode()}


def fix_partitions(client: redis.Redis, names: Names, partitions: int) -> None:
    """Write N for the group if nobody has; raise `SetupError` when the group has another N.

    Called once by each process before it sends or takes anything. Changing N would move keys away from their states.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.hsetnx(names.facts_of_group, "partitions", partitions)
        pipe.hget(names.facts_of_group, "partitions")
        written, number = pipe.execute(raise_on_error=False)
    # A server that is full refuses to write, and a user may not be allowed to: what is there already can be read all the same.
    refusal = number if isinstance(number, Exception) else written if number is None else None
    if refusal is not None:
        raise refusal
    found = int(number)
    if found != partitions:
        raise SetupError(
            f"partition group {names.group!r} has {found} partitions in this Redis, and this process was started with "
            f"PARTITIONS={partitions}. Start it with PARTITIONS={found}, or use another PARTITIONS_GROUP. N is changed by `partitions export` "
            "and `partitions import --replace`"
        )


def remember_computations(client: redis.Redis, names: Names, computations: Iterable[str]) -> None:
    """Note which computations exist, so that status and keys can be read by a process that has not their code."""
    fields: dict[Any, Any] = {names.computation_field(name): 1 for name in computations}
    if fields:
        client.hset(names.facts_of_group, mapping=fields)
