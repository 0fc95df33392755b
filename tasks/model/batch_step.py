"""The inside of a step: applies messages to states, and decides new states, outputs and failures.

Law 3: messages of one key are applied in queue order, one at a time, each to the state that the previous one left.
If a computation raises, the key's state is as before its message: it is restored from its bytes, and the key's earlier successful messages
in this batch are applied again, as fresh copies. So a computation may be called more than once for a message, but its effect on the state
counts once.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, assert_never, cast

from celery_partitions.model.caller import Call, Caller, Calling, Calls
from celery_partitions.model.computation import Computation, StageNode
from celery_partitions.model.effects import Alarm
from celery_partitions.model.errors import EventTimeAhead, TimeLimitExceeded, describe
from celery_partitions.model.fairness import CHECK_SECONDS, LOOK_SECONDS
from celery_partitions.model.gathering import Gathering
from celery_partitions.model.halving import NOT_HALVED, Halving
from celery_partitions.model.items import (
    Apart,
    DeadLetterItem,
    Delayed,
    Item,
    Misrouted,
    PlainTask,
    ReplyRequest,
    Skipped,
    UnknownTask,
    Work,
)
from celery_partitions.model.mailboxes import Mailboxes
from celery_partitions.model.outbox import SHARED_OUTPUT_BYTES, Outbox, no_sender
from celery_partitions.model.outcome import GONE, Failure, Outcome, Park, Slot, States, Unreadable
from celery_partitions.model.own_lines import line_in
from celery_partitions.model.policy import GiveUp, TryAgain, Wait, after_failure
from celery_partitions.model.rate_limit import NoToken
from celery_partitions.model.reply_request import longest_value, reply_text
from celery_partitions.model.rollback import Replay, failure_of
from celery_partitions.model.step_rules import StepRules
from celery_partitions.model.timers import EXPIRY, NO_TIMERS, fresh_expiries, next_alarm, touch
from celery_partitions.model.values import TIMER


class BatchStep:
    """What `StepMachine` does, as a generator of calls that returns the outcome. Its constructor takes the words of `StepMachine`."""

    def __init__(
        self,
        items: Sequence[Item],
        states: States,
        rules: StepRules,
        parked: Container[str],
        mailbox_lengths: Mapping[str, int],
        own_lines: Collection[str],
        mailbox_of: str | None,
        attempt: int,
        line: str | None,
        waited_out: bool,
        waited: bool,
        halving: Halving,
        gathers: bool,
    ) -> None:
        self.items, self.states, self.rules = items, states, rules
        self.out = Outcome()
        self.boxes = Mailboxes(
            self.out,
            rules,
            parked=parked,
            mailbox_lengths=mailbox_lengths,
            own_lines=own_lines,
            mailbox_of=mailbox_of,
            attempt=attempt,
            line=line,
            waited_out=waited_out,
        )
        calling = Calling(
            partition=rules.partition,
            pickling=rules.pickling,
            inline=rules.inline,
            writer=rules.writer,
            now=rules.now,
            resources=rules.resources,
        )
        self.outbox = Outbox(rules.app, self.sender)
        self.caller = Caller(states, calling, self.outbox)
        self.caller.waited = waited
        self.touched = self.caller.touched
        #: Alarms of firings that were given up.
        self.alarms: list[Alarm] = []
        self.replay = Replay(self.caller, states, rules.pickling, self.out.done, self.answer, self.outbox)
        self.gathering = Gathering(self, halving, gathers=gathers)

    def current(self) -> tuple[Work, int] | None:
        """The message being applied, and the number of its try. None: no message is."""
        if self.replay.again is not None:
            return self.replay.again, 1
        item = self.sender()
        return None if item is None else (item, self.boxes.attempt)

    def let_go(self) -> None:
        """The step is done. Its parts refer to each other; without that, its messages are freed now. A worker's garbage collections are rare:
        they would be kept for hundreds of batches."""
        if self.rules.begins is not None:
            self.rules.begins(no_sender)
        self.outbox.sender = no_sender
        del self.replay.answer, self.gathering.step

    def sender(self) -> Work | None:
        """The item being applied; the first, if several are. None: no message is."""
        if self.replay.original is not None:
            return self.replay.original
        if self.gathering.called:
            return self.gathering.called[0]
        item = self.items[self.out.taken] if self.out.taken < len(self.items) else None
        return item if isinstance(item, Work) else None

    def run(self) -> Calls[Outcome]:
        out, clock, parked_now, own_lines = self.out, self.rules.clock, self.out.parked, self.boxes.own_lines
        done, began, waiting = out.done.append, out.began.append, self.boxes.parked
        careful = self.boxes.mailbox_of is not None
        current: Computation | None = None
        table: Mapping[str, Slot | Unreadable] = {}
        touched: dict[str, Slot] = {}
        only_stage: StageNode | None = None
        is_direct = False
        inline, gathered = self.rules.inline, self.gathering.pending
        #: Whether messages have rate limits, so that a rollback must not call those before again.
        limited = False
        now = clock()
        start, look_seconds, end = now, LOOK_SECONDS, now + self.rules.seconds
        others_wait = self.rules.others_wait
        until = end if careful or self.boxes.line is not None else min(end, now + look_seconds)
        if others_wait is not None:
            until = now + CHECK_SECONDS
        taken = 0
        for item in self.items:
            out.taken = taken
            if now > until and taken:
                if now > end or (others_wait is not None and others_wait()):
                    break
                if others_wait is not None:
                    until = clock() + CHECK_SECONDS
                elif self.boxes.share(self.items[taken:], now, gathered):
                    waiting, until = self.boxes.parked, end
                else:
                    look_seconds *= 2
                    until = min(end, start + look_seconds)
            taken += 1
            if not isinstance(item, Work):
                if gathered and isinstance(item, UnknownTask) and item.line in gathered:
                    yield from self.gathering.call(gathered.pop(item.line))
                if not self.pass_on(item):
                    break
                waiting = self.boxes.parked
                continue
            key, computation = item.key, item.computation
            if gathered and (pending := gathered.get(key)) is not None:
                if pending[0].computation is not computation:
                    yield from self.gathering.call(gathered.pop(key))
                    waiting, now = self.boxes.parked, clock()
                elif computation.flush is not None and len(pending) + 1 < computation.flush.every:
                    pending.append(item)  # as `add` does, without a generator for each message
                    continue
            if (waiting and key in waiting and not careful) or (parked_now and key in parked_now):
                if not self.boxes.mail(item, key):
                    break
                continue
            if own_lines and (line := line_in(own_lines, key, computation.lines)) is not None:
                if not self.boxes.mail(item, line):
                    break
                continue
            if computation is not current:
                current = computation
                table = self.states.get(computation.name, {})
                limited = not computation.plain_call and computation.has_rate_limit
                if computation.plain_call:
                    touched = self.touched.setdefault(computation, {})
                else:
                    is_direct, only_stage = self.caller.is_direct(computation), self.caller.only_stage(computation)
            try:
                if computation.plain_call:
                    slot = table[key]
                    if type(slot) is not Slot:
                        if not self.boxes.wait_for_state(item, self.error_of(cast(Unreadable, slot), computation)):
                            break
                        waiting = self.boxes.parked
                        continue
                    touched[key] = slot
                    if inline:
                        value = computation.function(item.message, slot.state)
                    else:
                        value = yield Call(computation, item, [item.message, slot.state])
                    if type(item) is ReplyRequest:
                        self.answer(item, value)
                        if self.replay.share >= 1:
                            until = end = now - 1
                elif computation.flush is not None:
                    if careful:
                        yield from self.gathering.of_mailbox(taken - 1, end)
                        break
                    if not (yield from self.gathering.add(item)):
                        break
                    waiting, now = self.boxes.parked, clock()
                    if self.replay.share >= 1:
                        until = end = now - 1
                    continue
                else:
                    unreadable = self.unreadable(item)
                    if unreadable is not None:
                        if not self.boxes.wait_for_state(item, unreadable):
                            break
                        waiting = self.boxes.parked
                        continue
                    if is_direct:
                        self.caller.call_task(item, self.boxes.attempt)
                        self.replay.keep(item, None)
                    elif only_stage is not None and item.message is not TIMER:
                        self.replay.keep(item, self.caller.call_only(only_stage, item, self.boxes.attempt))
                    else:
                        yield from self.replay.call(item, item, self.boxes.attempt)
                    if self.replay.share >= 1:
                        until = end = now - 1  # end the step: the commit is large enough
                if careful or limited:
                    self.replay.checkpoint(item)
                    self.caller.waited = False
            except GeneratorExit:  # the step is abandoned
                raise
            except BaseException as error:  # anything that a user's function raises is a failure of its message
                if not (yield from self.fail([item], error)):
                    break
                waiting = self.boxes.parked
                if out.pause:
                    out.taken = taken
                    break
            else:
                done(item)
                began(now)
            now = clock()
        else:
            out.taken = taken
        yield from self.gathering.end()
        yield from self.pickle_touched()
        for stage in self.touched:
            if stage.state is not None and stage.state.is_versioned:
                out.versions[stage.name] = stage.state.version
        out.emitted, out.late = [*self.replay.outputs(), *self.alarms], self.replay.late()
        if out.emitted:
            out.outputs = [self.replay.emitted, self.outbox.sent]
        out.ended, out.share = clock(), self.replay.share
        return out

    def fail_first(self, text: str) -> Calls[Outcome]:
        """Count the first item as failed, without a call."""
        item = self.items[0]
        if isinstance(item, Work):
            self.caller.at = item.computation.limited
            if self.gathering.is_alone(item):
                self.out.taken = int((yield from self.fail([item], TimeLimitExceeded(text), self.gathering.halving)))
            else:
                self.out.taken = int(self.gathering.halve_hanging(item, text))
            self.out.ended = self.rules.clock()
            return self.out
        return (yield from self.run())  # it is no longer work, for example because it was revoked meanwhile

    def answer(self, item: ReplyRequest, value: Any) -> None:
        """Encode the result immediately, because the computation may change the object later. Raises `ReplyError`."""
        item.value = reply_text(item.computation, value, longest_value(item.envelope.body, item.raw, self.rules.message_bytes))
        self.replay.share += (len(item.value) + len(item.raw)) / SHARED_OUTPUT_BYTES
        self.out.answered = True

    def unreadable(self, item: Work) -> str | None:
        """The error, if one of the states that the message may change can't be read. Raises `MigrationFailed`."""
        for stage in item.computation.stateful:
            slot = self.states[stage.name][item.key]
            if type(slot) is not Slot:
                return self.error_of(cast(Unreadable, slot), stage)
        return None

    def error_of(self, unreadable: Unreadable, stage: Computation) -> str:
        """Why a stage's state can't be read. Raises `MigrationFailed`, which is a failure of the message."""
        if unreadable.failure is not None:
            self.caller.at = stage
            raise unreadable.failure
        return unreadable.error

    def pass_on(self, item: Misrouted | Delayed | Skipped | PlainTask | UnknownTask | DeadLetterItem | Apart) -> bool:
        """Handle an item that is not work of this partition. Returns False to end the step before it."""
        match item:
            case Misrouted(raw, partition, was_here):
                (self.out.followed if was_here else self.out.forwarded).setdefault(partition, []).append(raw)
            case Apart():
                pass
            case Delayed():
                self.out.delayed.append(item)
            case Skipped():
                self.out.skipped.append(item)
            case DeadLetterItem():
                self.out.dead.append((item, 0))
            case PlainTask():
                self.out.plain_task = item
                return False
            case UnknownTask():
                return self.boxes.wait_for_task(item)
            case _:
                assert_never(item)
        return True

    def fail(self, works: Sequence[Work], error: BaseException, halving: Halving = NOT_HALVED) -> Calls[bool]:
        """Undo the failed try of a message, or of several that a batch computation got, then park the key or make a dead letter of the message.
        Returns False to end the step before the message."""
        item, count = works[0], len(works)
        if isinstance(error, EventTimeAhead):  # before any stage was called
            self.boxes.add_dead_letter(item, error.reason, str(error), "", self.boxes.attempt)
            return True
        self.outbox.drop(item)
        if isinstance(error, NoToken) and item.computation.role == "task":  # nothing was called
            return self.boxes.wait_for_turn(works, "rate", error.seconds, halving)
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
            return self.boxes.wait_for_turn(works, "rate", error.seconds, halving)
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
            self.touched[stage].pop(key)
            out.states.get(stage.name, {}).pop(key, None)
            cast(dict[str, Any], self.states[stage.name])[key] = Unreadable(describe(error))

    def pickle_touched(self) -> Calls[None]:
        """Pickle every changed state. If one can't be pickled, the message that made it so fails."""
        dump = self.rules.pickling.dump
        for stage, slots in list(self.touched.items()):  # a copy, because a rollback calls computations, which may touch other states
            changed = self.out.states.setdefault(stage.name, {})
            expires, checked = stage.ttl_ms is not None, self.caller.checked
            first, last, now = fresh_expiries(stage, self.rules.now) if expires else (0, 0, 0)
            for key, slot in list(slots.items()):
                try:
                    if expires:
                        expiry = None if checked or slot.timers is None else slot.timers.get(EXPIRY)
                        is_fresh = expiry is not None and first <= expiry.due <= last and expiry.alarm > now
                        after = dump(stage, key, slot.state, slot.timers) if is_fresh or self.is_kept(stage, key, slot) else GONE
                    else:
                        after = dump(stage, key, slot.state, slot.timers)
                except Exception:
                    yield from self.roll_back(stage, key)
                    continue
                if after != slot.stored:
                    changed[key] = after

    def is_kept(self, stage: Computation, key: str, slot: Slot) -> bool:
        """For a stage with `ttl=`: whether the key's record is kept. Moves its expiry if a message used the key."""
        if (stage.name, key) in self.caller.checked:
            expiry = stage.handlers[EXPIRY]
            if not any(work.key == key and work.computation is not expiry and stage in work.computation.stateful for work in self.out.done):
                return EXPIRY in (slot.timers or NO_TIMERS)
        alarm = touch(stage, key, slot, self.rules.now)
        if alarm is not None:
            self.alarms.append(alarm)
        return True

    def roll_back(self, spoiled: Computation, key: str) -> Calls[None]:
        """A key's state can't be pickled. Fail the message that made it so, and pickle the key's restored states."""
        scope = spoiled.scope
        last = next(work for work in reversed(self.out.done) if work.key == key and work.computation.scope == scope)
        before = self.replay.slots_of(scope, key)
        try:
            undone = yield from self.replay.run(last)
        except Exception as unreadable:
            self.give_up(last, unreadable)
            return
        if undone is not None:
            self.park_from(undone, [])
        for stage in before:
            self.out.states.get(stage.name, {}).pop(key, None)
        for stage, slot in self.replay.slots_of(scope, key).items():
            is_gone = stage.ttl_ms is not None and not self.is_kept(stage, key, slot)
            after = GONE if is_gone else self.rules.pickling.dump(stage, key, slot.state, slot.timers)
            if after != slot.stored:
                self.out.states.setdefault(stage.name, {})[key] = after

