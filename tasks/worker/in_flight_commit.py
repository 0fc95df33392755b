"""Plans a commit of calls in flight: the results of calls that returned, and the open batch of the queue. Sends nothing.

The results of calls that returned are written as those of any step. A message of the queue whose call still runs moves to its key's mailbox.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from celery_partitions.model.deduplication import ids_to_remember
from celery_partitions.model.effects import (
    RUNNING,
    CountRunning,
    DropDeadLetter,
    Effect,
    EndIsolation,
    FollowUp,
    MoreEffects,
    ParkedKey,
    TakeFromMailbox,
    Unpark,
)
from celery_partitions.model.in_flight import MAX_SHARED
from celery_partitions.model.messages import name_of
from celery_partitions.model.outcome import Outcome, Park, Slot, Waiting
from celery_partitions.store.deduplication import remember
from celery_partitions.store.names import Names
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.key_runs import KeyRun
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_calls import OpenBatch, PartitionCalls
from celery_partitions.worker.planned_commit import PlannedCommit, ask_after, commit_of, count_in_turn, gather_of
from celery_partitions.worker.timelines import Timelines
from celery_partitions_config.settings import Settings

Replies = Callable[[OwnedPartition, Batch, Outcome], list[MoreEffects]]


@dataclass(slots=True)
class PlannedCalls:
    """What a commit holds of a partition's calls."""

    batch: Batch
    outcome: Outcome
    planned: PlannedCommit
    #: The runs with outcomes in the commit, and how many.
    runs: list[tuple[KeyRun, int]]
    closing: OpenBatch | None
    #: Keys whose mailboxes the commit empties.
    unparked: list[str]
    noted: bool

    @property
    def count(self) -> int:
        """How many outcomes of calls it holds."""
        return sum(count for _, count in self.runs)


@dataclass(slots=True)
class _Plan:
    owned: OwnedPartition
    calls: PartitionCalls
    replies: Replies
    now: float
    #: How long keys may wait for a readable state.
    wait_seconds: float
    outcome: Outcome = field(default_factory=Outcome)
    #: Effects that come before those of the outcome, and after.
    first: list[Effect] = field(default_factory=list)
    last: list[Effect] = field(default_factory=list)
    parked: dict[str, ParkedKey] = field(default_factory=dict)
    unparked: list[str] = field(default_factory=list)
    runs: list[tuple[KeyRun, int]] = field(default_factory=list)
    #: How many more outcomes the commit may hold.
    room: int = sys.maxsize

    def add(self, run: KeyRun) -> list[bytes]:
        """Add the outcomes of a run, as far as there is room. Returns its messages that are not done."""
        outcomes, owned = run.outcomes[: self.room], self.owned
        self.room -= len(outcomes)
        self.runs.append((run, len(outcomes)))
        done = sum(one.taken for one in outcomes)
        known = None if run.from_queue else owned.parked.get(run.place)
        was_reported = known is not None and known.dead_letter is not None
        for number, one in enumerate(outcomes):
            if one.answered or one.dead or one.parked or one.skipped:
                # If its retries were used up before, the failure of the first message was reported then.
                first = Batch([run.items[0].raw], run.place) if was_reported and number == 0 else Batch([])
                self.outcome.effects += self.replies(owned, first, one)
            self.outcome.absorb(one)
            for place, park in one.parked.items():
                self.parked[place] = self.record(place, park, known if number == 0 and place == run.place else None)
            for place, waiting in one.waiting.items():
                self.parked[place] = waiting.parked(known if number == 0 and place == run.place else None, self.now, self.wait_seconds)
            for place, mailed in one.mailed.items():  # into an own line
                self.outcome.mailed.setdefault(place, []).extend(mailed)
        raws = run.raws
        if not run.from_queue and done:
            self.first.append(TakeFromMailbox(run.place, raws[:done]))
            if known is not None and known.dead_letter is not None:
                self.last.append(DropDeadLetter(known.dead_letter))
        return raws[done:]

    def record(self, key: str, park: Park, before: ParkedKey | None) -> ParkedKey:
        """The record of a key whose message failed. `before`: its record, if the same message failed before."""
        failure, headers = park.failure, park.failure.item.envelope.headers
        failed_before = before is not None and bool(before.error)
        dead_letter = None if before is None else before.dead_letter
        if park.used_up and dead_letter is None:
            dead_letter = f"{self.owned.partition}-{self.owned.commit_number}-c{len(self.parked)}"
        return ParkedKey(
            due=None if park.seconds is None else self.now + park.seconds,
            attempt=failure.attempt + 1,
            error=failure.error,
            trace=failure.trace,
            dead_letter=dead_letter,
            message_id=headers.id,
            task=headers.task,
            since=before.since if before is not None and failed_before else self.now,
            size=failure.halving.size,
            suspects=failure.halving.suspects,
        )

    def running(self, raw: bytes | None, attempt: int = 1, since: float | None = None) -> ParkedKey:
        """The record of a key whose next message is `raw` (None: not known)."""
        task, message_id = (None, None) if raw is None else name_of(raw)
        return ParkedKey(self.now, attempt, message_id=message_id, task=task, since=since or self.now, reason=RUNNING)

    def close(self, opened: OpenBatch) -> None:
        """Add the open batch: its messages leave the queue."""
        outcome = opened.outcome
        if outcome.answered or outcome.dead or outcome.parked or outcome.skipped:
            self.outcome.effects += self.replies(self.owned, opened.batch, outcome)
        self.outcome.taken = outcome.taken
        self.outcome.effects += outcome.effects
        self.outcome.absorb(outcome)
        for key, raws in outcome.mailed.items():
            self.outcome.mailed[key] = list(raws)
        for key, park in outcome.parked.items():
            self.parked[key] = self.record(key, park, None)
        for key, waiting in outcome.waiting.items():
            self.parked[key] = waiting.parked(gather_of(self.owned, key, waiting), self.now, self.wait_seconds)
        room, searching = self.room, self.calls.largest_commit is not None
        if searching:
            self.room = 0  # results move to the mailboxes with their messages, and are written from there in small commits
        short: list[Outcome] = []
        for key, run in opened.runs.items():
            if run.is_over and len(run.outcomes) == len(run.items) == 1 and run.outcomes[0].is_short and key not in opened.behind and not searching:
                short.append(run.outcomes[0])  # by far the most
                self.runs.append((run, 1))
                continue
            rest = self.add(run) + opened.behind.get(key, [])
            if rest:
                self.outcome.mailed[key] = rest
                if key not in self.parked:
                    attempt = run.attempt if searching or not run.outcomes else 1
                    self.parked[key] = self.running(rest[0], attempt)
        self.outcome.absorb_short(short)
        self.room = room
        for key, raws in opened.behind.items():
            if key in opened.runs:
                continue
            self.outcome.mailed[key] = self.outcome.mailed.get(key, []) + raws
            if key not in self.parked and key not in self.owned.parked:
                self.parked[key] = self.running(raws[0])
            elif key in self.parked and self.parked[key].reason == "gather":  # a message of another computation ends it
                self.parked[key].due = self.now

    def of_mailbox(self, run: KeyRun) -> None:
        """Add the results of a run whose messages are in its key's mailbox."""
        owned, key = self.owned, run.place
        rest = self.add(run)
        if key in self.parked:
            return
        done = len(run.items) - len(rest)
        known = owned.parked.get(key)
        if not rest and owned.mailbox_lengths.get(key, 0) <= done and key not in self.outcome.mailed:
            self.unparked.append(key)
            self.last.append(Unpark(key))
        elif run.together and not rest and not run.is_followed and (waiting := self.gather(run, done)) is not None:
            self.parked[key] = waiting.parked(None, self.now, self.wait_seconds)
        elif known is None or known.why != "running" or known.attempt != 1 or not rest:
            self.parked[key] = self.running(rest[0] if rest else None)

    def gather(self, run: KeyRun, done: int) -> Waiting | None:
        """How the messages behind a call of a batch computation wait for more. None: they are enough."""
        flush, key = run.stage.flush, run.place
        left = self.owned.mailbox_lengths.get(key, 0) - done + len(self.outcome.mailed.get(key, ()))
        if flush is None or left >= flush.every:
            return None
        return Waiting("gather", "", run.stage.name, None, 1, flush.seconds)


def plan_calls(
    names: Names, owned: OwnedPartition, *, closes: bool, replies: Replies, settings: Settings, timelines: Timelines | None = None
) -> PlannedCalls | None:
    """The commit of the results so far; None if there are none. `closes`: the open batch is part of it. `timelines`: add to them what
    changes."""
    calls = owned.calls
    assert calls is not None
    now = owned.server_now()
    plan = _Plan(owned, calls, replies, now, settings.deploy_wait_seconds)
    plan.room = calls.largest_commit or sys.maxsize
    closing = calls.open if closes else None
    if closing is not None:
        plan.close(closing)
    for run in list(calls.runs.values()):
        if not run.from_queue and run.outcomes and plan.room > 0:
            plan.of_mailbox(run)
    calls.ended_since = None
    is_noted = bool(calls.noted)
    outcome = plan.outcome
    plan.last += _of_batch(owned, closing, outcome, settings.deduplicate_ids)
    done = calls.noted + [run.noted for run, count in plan.runs if count and run.noted is not None and not run.from_queue]
    if done:
        plan.last.append(EndIsolation(done, None))
    if not plan.runs and closing is None and not is_noted:
        return None
    outcome.parked = {key: park for key, park in outcome.parked.items() if key in plan.parked}
    written = outcome.written(owned.partition, owned.commit_number, plan.parked)
    count = count_in_turn(owned, plan.parked, plan.unparked)
    if count is not None:
        plan.last.append(CountRunning(count))
    effects = [*plan.first, *written, *plan.last]
    if timelines is not None:
        bases = {(name, run.key): stored for run, _ in plan.runs for name, stored in run.base.items()}
        if (added := timelines.effect(owned, outcome, plan.parked, bases)) is not None:
            effects.append(added)
    taken = closing.batch.messages[: outcome.taken] if closing is not None else []
    limit = settings.batch_messages
    ask = limit if not owned.messages else 0
    if closing is not None:
        ask = ask_after(owned, closing.batch, len(taken), limit)
        if calls.filled is not None and len(owned.messages) - len(taken) >= ask // 4 and not any(type(one) is FollowUp for one in outcome.effects):
            ask = 0  # the next messages are known
    commit = commit_of(names, owned, effects, taken, now, ask=ask)
    retried = sum(1 for run, count in plan.runs if count and run.attempt > 1)
    planned = PlannedCommit(commit, plan.parked, (), retried)
    batch = Batch([]) if closing is None else closing.batch
    return PlannedCalls(batch, outcome, planned, plan.runs, closing, plan.unparked, is_noted)


def _of_batch(owned: OwnedPartition, closing: OpenBatch | None, outcome: Outcome, max_ids: int) -> Iterator[Effect]:
    """Further effects of the open batch: deduplication and the end of its isolation."""
    if closing is None:
        return
    if closing.seen and outcome.taken:
        fresh = ids_to_remember(closing.items[: outcome.taken], {item.raw for item, _ in outcome.dead})
        yield from remember(closing.seen, fresh, owned.server_now(), max_ids)
    if closing.batch.noted:
        going_on = {run.noted for run in closing.runs.values() if not run.outcomes}
        done = [digest for digest in closing.batch.noted if digest not in going_on]
        yield EndIsolation(done, owned.to_isolate - outcome.taken if outcome.taken > 0 else None)


def calls_committed(owned: OwnedPartition, planned: PlannedCalls) -> None:
    """Update the partition's calls with what a commit wrote."""
    calls, outcome = owned.calls, planned.outcome
    if calls is None:
        return
    for key in planned.unparked:
        owned.parked.pop(key, None)
        owned.own_lines.discard(key)
        owned.mailbox_lengths.pop(key, None)
        calls.running.discard(key)
        owned.in_turn.discard(key)
    if planned.noted:
        calls.noted = []
    was_small = calls.largest_commit is not None
    if calls.largest_commit is not None and planned.count:
        calls.largest_commit = None if calls.largest_commit >= MAX_SHARED else calls.largest_commit * 2
    if planned.closing is not None and calls.open is planned.closing:
        calls.open = None
    for run, count in planned.runs:
        if run.from_queue and run.is_over and count == len(run.outcomes):  # by far the most
            run.from_queue, run.outcomes = False, []
            finish(owned, calls, run)
            continue
        done = sum(one.taken for one in run.outcomes[:count])
        for name, table in run.slots.items():
            stored = outcome.states.get(name, {}).get(run.key)
            if stored is not None and type(table[run.key]) is Slot:
                run.base[name] = stored or None
        if not run.from_queue and run.place in owned.mailbox_lengths:  # else the commit emptied its mailbox
            owned.mailbox_lengths[run.place] -= done
        del run.items[:done]
        del run.outcomes[:count]
        run.from_queue = False
        if run.is_over and not run.outcomes:
            finish(owned, calls, run)
        elif run.outcomes and calls.ended_since is None:
            calls.ended_since = owned.clock()
    if was_small and any(run.outcomes and not run.from_queue for run in calls.runs.values()):
        calls.ended_since = owned.clock()


def finish(owned: OwnedPartition, calls: PartitionCalls, run: KeyRun) -> None:
    """A run is committed to its end: its states go back to the cache, and its key's next message may start."""
    if calls.runs.get(run.key) is not run:
        return
    del calls.runs[run.key]
    if not calls.doubtful:  # else an operator may have changed them since they were committed
        owned.cache.give_back(run.slots)
    if owned.parked or calls.behind:
        calls.note_free(owned, run.key, run.place)
