"""The tests' waiting application on a worker whose handling of calls in flight is broken on purpose: `BROKEN_CALLS` names one of `BREAKS`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery_partitions.worker import in_flight, in_flight_commit
from celery_partitions.worker.calls import CallThread
from celery_partitions.worker.key_runs import KeyRun
from celery_partitions.worker.owned import OwnedPartition
from tests.support.applications.waiting import app

__all__ = ["BREAKS", "app"]


def overlap() -> None:
    """Message 2 of a key starts before message 1 has ended."""
    start = CallThread._start

    def split(self: CallThread, runs: list[KeyRun], ended: Any) -> None:
        for run in runs:
            if len(run.items) > 1 and run.from_queue:
                early = run.items[1]
                self._loop.create_task(self._call(_copy(run), early, self.rules(run.owned), False))
        start(self, runs, ended)

    CallThread._start = split  # type: ignore[method-assign]


def _copy(run: KeyRun) -> KeyRun:
    return KeyRun(run.owned, run.key, list(run.items), {name: dict(table) for name, table in run.slots.items()}, dict(run.base), run.stage)


def forget_a_message() -> None:
    """The move to the mailbox loses the youngest message of a key."""
    close = in_flight_commit._Plan.close

    def forgetful(self: Any, opened: Any) -> None:
        close(self, opened)
        for raws in self.outcome.mailed.values():
            if len(raws) > 1:
                raws.pop()

    in_flight_commit._Plan.close = forgetful  # type: ignore[method-assign]


def no_check() -> None:
    """A call's outcome is committed on whatever state is in Redis."""

    def trusting(client: Any, names: Any, owned: OwnedPartition, calls: Any) -> list[str]:
        calls.doubtful = False
        return []

    in_flight.without_ground = trusting


BREAKS: dict[str, Callable[[], None]] = {
    "message 2 starts before message 1 ends": overlap,
    "the move to the mailbox forgets a message": forget_a_message,
    "a completion without its state check": no_check,
}

if _name := os.environ.get("BROKEN_CALLS"):
    BREAKS[_name]()
