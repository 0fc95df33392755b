"""The tests' waiting application on a worker whose handling of calls in flight is broken on purpose: `BROKEN_CALLS` names one of `BREAKS`.

The simulation breaks its engine in the same ways.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery_partitions.store.commits import Commit, CommitStore, Reply, SentCommit
from celery_partitions.worker import in_flight, in_flight_commit
from celery_partitions.worker.call_turns import CallTurns
from celery_partitions.worker.calls import CallThread
from celery_partitions.worker.key_runs import KeyRun
from celery_partitions.worker.loop_commits import LoopCommits
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_state import Event, State
from tests.support.applications.waiting import Visit, app, say

__all__ = ["BREAKS", "app"]

#: Replaces an attribute: `setattr`, or that of a monkeypatch.
Put = Callable[[Any, str, Any], None]


def overlap(put: Put) -> None:
    """Message 2 of a key starts before message 1 has ended."""
    start = CallThread._start

    def split(self: CallThread, runs: list[KeyRun], ended: Any) -> None:
        for run in runs:
            if len(run.items) > 1 and run.from_queue:
                early = run.items[1]
                self._loop.create_task(self._call(_copy(run), [early], self.rules(run.owned), False))
        start(self, runs, ended)

    put(CallThread, "_start", split)


def _copy(run: KeyRun) -> KeyRun:
    return KeyRun(run.owned, run.key, list(run.items), {name: dict(table) for name, table in run.slots.items()}, dict(run.base), run.stage)


def forget_a_message(put: Put) -> None:
    """The move to the mailbox loses the youngest message of a key."""
    close = in_flight_commit._Plan.close

    def forgetful(self: Any, opened: Any) -> None:
        close(self, opened)
        for raws in self.outcome.mailed.values():
            if len(raws) > 1:
                raws.pop()

    put(in_flight_commit._Plan, "close", forgetful)


def no_check(put: Put) -> None:
    """A call's outcome is committed on whatever state is in Redis."""

    def trusting(client: Any, names: Any, owned: OwnedPartition, calls: Any) -> list[str]:
        calls.doubtful = False
        return []

    put(in_flight, "without_ground", trusting)


def two_commits(put: Put) -> None:
    """A partition's next commit is planned while its last one is under way."""
    commit = CallTurns.commit

    def hasty(self: CallTurns, owned: OwnedPartition, *, last: bool = False) -> bool:
        sent = commit(self, owned, last=last)
        if sent and owned.state is State.COMMITTING:
            owned.on(Event.READ)  # it counts as answered
        return sent

    put(CallTurns, "commit", hasty)


BREAKS: dict[str, Callable[[Put], None]] = {
    "message 2 starts before message 1 ends": overlap,
    "the move to the mailbox forgets a message": forget_a_message,
    "a completion without its state check": no_check,
    "two commits under way": two_commits,
}

#: The worker does not wait for the answers to its first commits: `BROKEN_CALLS` too. The simulation's judge cannot bear it.
NO_ANSWERS = "no answers"


def no_answers(put: Put) -> None:
    settle, left = LoopCommits.settle, 10

    def hasty(self: LoopCommits) -> None:
        nonlocal left
        pending = self.pending
        if pending is None or pending.sent is None or not left:
            settle(self)
            return
        left -= 1
        self.pending = None
        pending.owned.forget_all()

    put(LoopCommits, "settle", hasty)


def watch_commits(put: Put) -> None:
    """Record when a partition has a second commit under way."""
    begin, finish = CommitStore.begin, CommitStore.finish
    under_way: list[SentCommit] = []

    def begun(self: CommitStore, commit: Commit) -> SentCommit:
        if any(one.commit.lease == commit.lease for one in under_way):
            say("twice", Visit(commit.lease.partition, 0))
        under_way.append(begin(self, commit))
        return under_way[-1]

    def finished(self: CommitStore, sent: SentCommit) -> Reply:
        under_way.remove(sent)
        return finish(self, sent)

    put(CommitStore, "begin", begun)
    put(CommitStore, "finish", finished)


if (_name := os.environ.get("BROKEN_CALLS")) is not None:
    watch_commits(setattr)
    if _name:
        {**BREAKS, NO_ANSWERS: no_answers}[_name](setattr)
