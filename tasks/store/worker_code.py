"""Which versions of its computations' states a worker's code can read.

A partition's `meta` has the highest version that was written of each computation's states. `claim` compares it with what the worker reads,
so that a worker with older code never gets a partition whose states it cannot read. Each worker also publishes what it can
read, for operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import msgspec
import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.versions import FIRST, RENAMED_TO
from celery_partitions.store.decoding import decoded
from celery_partitions.store.names import Names

_decode = msgspec.json.Decoder(dict[str, int]).decode


@dataclass(frozen=True)
class WorkerCode:
    """What one worker can read."""

    #: Computation → the version of its states that the worker writes, the highest that it can read.
    reads: Mapping[str, int] = field(default_factory=dict)
    #: Former name of a computation → its name.
    renamed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, computations: Iterable[Computation]) -> WorkerCode:
        found = list(computations)
        return cls(
            {one.name: one.state.version for one in found if one.state is not None},
            {former: one.name for one in found for former in one.formerly if one.owner is None},
        )

    @classmethod
    def from_json(cls, text: bytes) -> WorkerCode | None:
        """What another worker published. None if it cannot be read."""
        reads = decoded(_decode, text)
        return None if reads is None else cls(reads)

    @cached_property
    def json(self) -> bytes:
        return msgspec.json.encode(self.reads)

    @cached_property
    def words(self) -> list[str | int]:
        """The operands of `claim`: field of `meta`, version, field, version, …"""
        return [word for name, version in self.reads.items() for word in (Names.version_field(name), version)]

    @cached_property
    def renames(self) -> list[str | int]:
        """More operands of `claim`: former name, name, the version that the worker can read, …"""
        return [word for former, name in self.renamed.items() for word in (former, name, self.reads.get(name, FIRST))]

    def can_read(self, computation: str, written: bytes | None) -> bool:
        """Whether it can read states of a computation, by the highest version written. `claim` decides the same."""
        if written is None:
            return True
        if written.isdigit():
            return int(written) <= self.reads.get(self.renamed.get(computation, computation), FIRST)
        # The states have another name now: either one that this computation had before (a roll back), or one that only newer code has.
        text = written.decode("utf-8", "replace")
        return computation in self.renamed or (text.startswith(RENAMED_TO) and self.renamed.get(text.removeprefix(RENAMED_TO)) == computation)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a worker may not have a partition: newer code wrote states of this computation, or renamed it."""

    computation: str
    #: The highest version written there, and the highest that the worker can read. `written` is text, because anything may stand there.
    written: str
    reads: int

    def __str__(self) -> str:
        if self.written.startswith(RENAMED_TO):
            return (
                f"newer code has renamed {self.computation!r} to {self.written.removeprefix(RENAMED_TO)!r}, and took its states over. A worker with "
                "that code must take it: finish the deploy, or stop this worker"
            )
        return (
            f"its states of {self.computation!r} have version {self.written}, but this worker's code reads only up to version {self.reads}. "
            "A worker with the newer code must take it: finish the deploy, or stop this worker"
        )


def refusal(code: WorkerCode, field: bytes, written: bytes) -> Refusal:
    """A refusal from the answer of `claim`."""
    name = Names.computation_of_version(field.decode("utf-8", "replace"))
    return Refusal(name, written.decode("utf-8", "replace")[:250], code.reads.get(name, FIRST))


def still_refused(client: redis.Redis, names: Names, code: WorkerCode, partitions: Iterable[str]) -> dict[str, Refusal]:
    """Those of the partitions that the worker still cannot read. They change if the group is emptied, or loaded from an export."""
    fields = [*cast(list[str], code.words[::2]), *map(Names.version_field, code.renamed)]
    wanted = list(partitions)
    if not wanted or not fields:
        return {}
    with client.pipeline(transaction=False) as pipe:
        for partition in wanted:
            pipe.hmget(names.meta(partition), fields)
        rows = pipe.execute(raise_on_error=False)
    found = {}
    for partition, row in zip(wanted, rows, strict=True):
        one = None if isinstance(row, Exception) else next(
            (pair for pair in zip(fields, row, strict=True) if not code.can_read(Names.computation_of_version(pair[0]), pair[1])), None
        )
        if one is not None:
            found[partition] = refusal(code, one[0].encode(), one[1])
    return found

