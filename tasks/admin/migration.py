"""Reads every state of a group with this process's code, and writes what its code would store in another form.

Workers migrate states one by one, when a message needs them. This checks before a deploy whether all can be read, and after it brings all to
the newest form, so that old migrations and former names can be removed from the code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.former_names import delayed_with_former_names
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import StateError, describe
from celery_partitions.model.keys import key_text, shown_key
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.names import Names, partitions_and_ingress
from celery_partitions.store.record import version_of
from celery_partitions.store.scripts import digest_of, script

#: States read in one round trip.
PAGE = 1000
#: States, and about how many bytes, written in one call. It blocks the server for a few milliseconds.
WRITTEN_TOGETHER, BYTES_TOGETHER = 200, 4_000_000
#: How often a state is read again that a worker changed meanwhile.
TRIES = 10
#: Failures that a report names, for each computation.
MAX_FAILURES = 10


@dataclass(frozen=True, slots=True)
class FailedState:
    """A state that this process's code cannot read."""

    computation: str
    partition: str
    key: str
    error: str


@dataclass(slots=True)
class ComputationReport:
    """The states of one computation."""

    computation: str
    #: The version of the states that this code writes; None if this app has no such computation, and then nothing else is known.
    version: int | None
    states: int = 0
    #: Version → how many states have it. -1: it is not known, because the record cannot be read.
    versions: Counter[int] = field(default_factory=Counter)
    #: How many this code would store in another form: migrated, renamed, or with new fields. Also those under a former name of the
    #: computation: the worker that claims their partition takes them over.
    outdated: int = 0
    #: How many of those were written.
    written: int = 0
    #: How many were not, because workers kept changing them. They are written by those workers, or the next time.
    busy: int = 0
    failed: int = 0
    #: The first of the failed.
    failures: list[FailedState] = field(default_factory=list)
    #: Timers and delayed messages that still have a former name of the computation. `apply` renames the timers.
    former_timers: int = 0
    former_messages: int = 0


class Migration:
    """Checks or migrates the states of a group."""

    def __init__(
        self, client: redis.Redis, names: Names, partitions: int, codec: StateCodec, computations: Iterable[Computation]
    ) -> None:
        self.client, self.names, self.codec = client, names, codec
        self.partitions = partitions_and_ingress(partitions)
        self.computations = {one.name: one for one in computations if one.state is not None}

    def check(self) -> list[ComputationReport]:
        """Read all states and write nothing. Raises `DeclarationError` if a migration is missing between two others."""
        return self._run(write=False)

    def apply(self, *, by: str) -> list[ComputationReport]:
        """The same, and write the outdated states. Workers may run: what they change meanwhile is read again."""
        reports = self._run(write=True)
        detail = {one.computation: {"written": one.written, "failed": one.failed} for one in reports if one.version is not None}
        Audit(self.client, self.names).add(self.client, by, "migrate", detail)
        return reports

    def _run(self, *, write: bool) -> list[ComputationReport]:
        for computation in self.computations.values():
            assert computation.state is not None
            computation.state.versions.check(computation.state.cls)
        known = self.names.computations_in(cast(list[bytes], self.client.hkeys(self.names.group_meta)))
        former = {name for one in self.computations.values() for name in one.formerly}
        reports = [self._computation(name, write) for name in sorted({*known, *self.computations} - former)]
        if former:
            found = {one.computation: one for one in reports}
            for use in delayed_with_former_names(self.client, self.names, self.partitions, self.computations.values(), write=write):
                found[use.computation].former_timers += use.timers
                found[use.computation].former_messages += use.messages
        return reports

    def _computation(self, name: str, write: bool) -> ComputationReport:
        computation = self.computations.get(name)
        if computation is None:
            lengths: Any = [self.client.hlen(self.names.states(partition, name)) for partition in self.partitions]
            return ComputationReport(name, None, sum(lengths))
        assert computation.state is not None
        report = ComputationReport(name, computation.state.version)
        for partition in self.partitions:
            for former in computation.formerly:
                for rows in self._pages(self.names.states(partition, former)):
                    self._page(report, computation, partition, rows, write=False)
                    report.outdated += len(rows)
                    report.busy += len(rows) if write else 0
            for rows in self._pages(self.names.states(partition, name)):
                report.outdated += self._page(report, computation, partition, rows, write)
        return report

    def _pages(self, states: str) -> Iterable[dict[bytes, bytes]]:
        cursor = -1
        while cursor:
            cursor, rows = cast(Any, self.client.hscan(states, max(cursor, 0), count=PAGE))
            yield rows

    def _page(self, report: ComputationReport, computation: Computation, partition: str, rows: dict[bytes, bytes], write: bool) -> int:
        """Returns how many are outdated."""
        report.states += len(rows)
        outdated: list[tuple[bytes, bytes, bytes]] = []
        for key, stored in rows.items():
            report.versions[_version_of(stored)] += 1
            fresh = self._renewed(report, computation, partition, key, stored)
            if fresh is not None and fresh != stored:
                outdated.append((key, stored, fresh))
        if write:
            for some in _chunks(outdated):
                self._write(report, computation, partition, some)
        return len(outdated)

    def _renewed(self, report: ComputationReport, computation: Computation, partition: str, key: bytes, stored: bytes) -> bytes | None:
        """The state as this code would store it. None if it cannot, which is noted."""
        text = key_text(key)
        try:
            return self.codec.renewed(computation, text, stored)
        except Exception as error:
            report.failed += 1
            if len(report.failures) < MAX_FAILURES:
                why = str(error) if isinstance(error, StateError) else describe(error)
                report.failures.append(FailedState(report.computation, partition, shown_key(text), why))
            return None

    def _write(self, report: ComputationReport, computation: Computation, partition: str, some: list[tuple[bytes, bytes, bytes]]) -> None:
        states, state_class = self.names.states(partition, computation.name), computation.state
        assert state_class is not None
        version = state_class.version if state_class.is_versioned else 0
        for _ in range(TRIES):
            words: list[Any] = [self.names.changed, self.names.version_field(computation.name), version]
            for key, stored, fresh in some:
                words += key, digest_of(stored), fresh
            changed: list[int] = script("migrate_states").run(self.client, [states, self.names.meta(partition)], words)
            report.written += len(some) - len(changed)
            keys = [some[number][0] for number in changed]
            if not keys:
                return
            again = cast(list[bytes | None], self.client.hmget(states, cast(list[str], keys)))
            some = []
            for key, now in zip(keys, again, strict=True):
                made = None if now is None else self._renewed(report, computation, partition, key, now)
                if now is not None and made is not None and made != now:
                    some.append((key, now, made))
            if not some:
                return
        report.busy += len(some)


def _version_of(stored: bytes) -> int:
    try:
        return version_of(stored)
    except StateError:
        return -1


def _chunks(outdated: list[tuple[bytes, bytes, bytes]]) -> Iterable[list[tuple[bytes, bytes, bytes]]]:
    chunk: list[tuple[bytes, bytes, bytes]] = []
    size = 0
    for one in outdated:
        size += len(one[2])
        if chunk and (len(chunk) == WRITTEN_TOGETHER or size > BYTES_TOGETHER):
            yield chunk
            chunk, size = [], len(one[2])
        chunk.append(one)
    if chunk:
        yield chunk
