"""What a step does about a try that failed: it undoes the try, then parks the message's key or makes a dead letter of the message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, assert_never, cast

from celery_partitions.model.caller import Caller, Calls
from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import Alarm
from celery_partitions.model.errors import EventTimeAhead, describe
from celery_partitions.model.halving import NOT_HALVED, Halving
from celery_partitions.model.items import Work
from celery_partitions.model.mailboxes import Mailboxes
from celery_partitions.model.outbox import Outbox
from celery_partitions.model.outcome import Failure, Outcome, Park, Slot, States, Unreadable
from celery_partitions.model.policy import GiveUp, TryAgain, Wait, after_failure
from celery_partitions.model.rate_limit import NO_ANSWER_SECONDS, NoToken
from celery_partitions.model.rollback import Replay, failure_of
from celery_partitions.model.step_rules import StepRules
from celery_partitions.model.timers import next_alarm


class Failures:
    """Made once per step, whose parts it shares. `alarms`: adds those of repeating timers that were given up."""

    def __init__(
        self, out: Outcome, rules: StepRules, states: States, boxes: Mailboxes, caller: Caller, replay: Replay, outbox: Outbox, alarms: list[Alarm]
    ) -> None:
        self.out, self.rules, self.states, self.boxes, self.alarms = out, rules, states, boxes, alarms
        self.caller, self.replay, self.outbox = caller, replay, outbox

    def fail(self, works: Sequence[Work], error: BaseException, halving: Halving = NOT_HALVED) -> Calls[bool]:
        """Undo the failed try of a message, or of several that a batch computation got, then park the key or make a dead letter of the message.
        Returns False to end the step before the message."""
        item, count = works[0], len(works)
        if isinstance(error, EventTimeAhead):  # before any stage was called
            self.boxes.add_dead_letter(item, error.reason, str(error), "", self.boxes.attempt)
            return True
        self.outbox.drop(item)
        if isinstance(error, NoToken) and item.computation.role == "task":  # nothing was called
            return self.boxes.wait_for_turn(works, "rate", NO_ANSWER_SECONDS, halving, error.due)
        at = self.failed_at(item)
        failure = failure_of(item, error, self.boxes.attempt, at, works[1:], NOT_HALVED if item.computation.flush is None else halving.retried(count))
        try:
            undone = yield from self.replay.run(item)
        except Exception as unreadable:
            self.give_up(item, unreadable)
            for work in works:
                self.boxes.add_dead_letter(work, "unreadable-state", describe(unreadable), failure.trace, failure.attempt)
            return True
        raws = [work.raw for work in works]
        if undone is not None:
            self.park_from(undone, raws)
            return self.boxes.mailbox_of is None
        if isinstance(error, NoToken):
            return self.boxes.wait_for_turn(works, "rate", NO_ANSWER_SECONDS, halving, error.due)
        follows = after_failure(self.rules.policy_of(at), error, failure.attempt, self.rules.random)
        is_halved = halving.must_halve(count, follows)
        self.out.failures.append(replace(failure, is_halved=True) if is_halved else failure)
        if is_halved:
            return self.boxes.wait_for_turn(works, "gather", 0.0, halving.halved(count))
        match follows:
            case GiveUp():
                self.boxes.add_dead_letter(item, "computation-failed", failure.error, failure.trace, failure.attempt)
                if item.computation.owner is not None:
                    self.go_on_with_timer(item, item.computation.owner)
                return True
            case TryAgain(seconds):
                park = Park(failure, seconds, used_up=False)
            case Wait(seconds=wait, pause=pause):
                park = Park(failure, wait, used_up=True)
                self.out.pause = self.out.pause or pause
            case _:
                assert_never(follows)
        place = self.boxes.place_of(item)
        self.out.parked[place] = park
        if place == self.boxes.mailbox_of:
            return False
        self.out.mailed.setdefault(place, []).extend(raws)
        return True

    def go_on_with_timer(self, item: Work, owner: Computation) -> None:
        """A firing of a timer was given up. If the timer repeats itself, set the alarm for its next run."""
        slot = self.states[owner.name][item.key]
        alarm = next_alarm(item.computation, item.key, slot, self.rules.now) if type(slot) is Slot else None
        if alarm is not None:
            self.alarms.append(alarm)

    def failed_at(self, item: Work) -> Computation:
        """The computation to which the failure belongs. Call it right after the message has failed."""
        return item.computation if item.computation.role == "task" else self.caller.at or item.computation

    def park_from(self, failure: Failure, then: list[bytes]) -> None:
        """Put a message that had succeeded, and all later ones of its scope and key, into the mailbox."""
        out, item = self.out, failure.item
        kept, back = [], []
        found = False
        before = list(out.done)
        for work, began in zip(out.done, out.began, strict=True):
            found = found or work is item
            if found and work.key == item.key and work.computation.scope == item.computation.scope:
                back.append(work.raw)
            else:
                kept.append((work, began))
        out.done[:], out.began[:] = [work for work, _ in kept], [began for _, began in kept]
        self.replay.move_checkpoints(before)
        out.failures.append(failure)
        seconds = self.rules.policy_of(self.failed_at(item)).wait_after(1, self.rules.random())
        place = self.boxes.place_of(item)
        out.parked[place] = Park(failure, seconds, used_up=False)
        out.mailed[place] = back + then + out.mailed.get(place, [])

    def give_up(self, item: Work, error: Exception) -> None:
        """A state's bytes can't be read back. Undo everything that this step did for the key, and make dead letters of its messages."""
        out, scope, key = self.out, item.computation.scope, item.key
        keep = [not (work.key == key and work.computation.scope == scope) for work in out.done]
        for work, kept in zip(out.done, keep, strict=True):
            if not kept:
                self.boxes.add_dead_letter(work, "unreadable-state", describe(error), "", 1)
        before = list(out.done)
        out.done[:], out.began[:] = list(compress(out.done, keep)), list(compress(out.began, keep))
        self.replay.move_checkpoints(before)
        for stage in self.replay.slots_of(scope, key):
            self.caller.touched[stage].pop(key)
            out.states.get(stage.name, {}).pop(key, None)
            cast(dict[str, Any], self.states[stage.name])[key] = Unreadable(describe(error))
