"""A state computation, and hand-made commits, for the tests of the store."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.outcome import Outcome
from celery_partitions.store.commands import commands_of
from celery_partitions.store.commits import Commit, CommitStore
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names


class Total:
    """The state: the sum of a key, and a list of names."""

    amount = 0
    names: list[str] = []  # noqa: RUF012 - on purpose: each key must have its own


def key_of(message: dict[str, Any]) -> str:
    return str(message["key"])


def add(message: dict[str, Any], state: Total) -> None:
    state.amount += message["amount"]


def computation(name: str = "totals", state: type = Total) -> Computation:
    """A declared computation that is registered in no app."""
    # Tests put other classes of states behind the same function.
    return declare(lambda message, total: add(message, total), name=name, state=state, key=key_of)


def total(amount: int) -> Total:
    state = Total()
    state.amount = amount
    return state


def commit_of(
    lease: Lease,
    taken: list[bytes],
    *,
    commit_number: int | None = 0,
    edit_version: int | None = None,
    mailbox_of: str | None = None,
    commands: list[list[Any]] | None = None,
    ask: int = 100,
) -> Commit:
    """A commit that takes `taken`, oldest first."""
    return Commit(
        lease=lease,
        commit_number=commit_number,
        edit_version=edit_version,
        mailbox_of=mailbox_of,
        taken=len(taken),
        oldest=taken[0] if taken else b"",
        youngest=taken[-1] if taken else b"",
        commands=commands or [],
        ask=ask,
    )


def fill(store: CommitStore, queue: str, messages: list[bytes]) -> None:
    """Put messages into a queue as producers do: the oldest is on the right."""
    store.client.lpush(queue, *messages)


def queued(store: CommitStore, queue: str | bytes) -> list[bytes]:
    """What a list holds, oldest first."""
    return store.client.lrange(queue, 0, -1)[::-1]  # type: ignore[index]


def commands_of_outcome(
    outcome: Outcome,
    names: Names,
    partition: str,
    commit_number: int,
    now: float,
    parked: Mapping[str, ParkedKey] = MappingProxyType({}),
) -> list[list[Any]]:
    """The Redis commands for an outcome. `parked`: the records to write for the keys that it parks."""
    return commands_of(outcome.written(partition, commit_number, parked), names, partition, commit_number, now)
