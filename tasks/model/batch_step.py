"""The inside of a step: applies messages to states, in their order.

Law 3: messages of one key are applied in queue order, one at a time, each to the state that the previous one left.
If a computation raises, the key's state is as before its message: it is restored from its bytes, and the key's earlier successful messages
in this batch are applied again, as fresh copies. So a computation may be called more than once for a message, but its effect on the state
counts once.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any, assert_never, cast

from celery_partitions.model.caller import Call, Caller, Calls, OnlyStage
from celery_partitions.model.computation import Computation, ContextOf
from celery_partitions.model.effects import Alarm
from celery_partitions.model.errors import TimeLimitExceeded
from celery_partitions.model.fairness import CHECK_SECONDS, LOOK_SECONDS
from celery_partitions.model.gathering import Gathering
from celery_partitions.model.halving import Halving
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
from celery_partitions.model.new_states import NewStates
from celery_partitions.model.outbox import SHARED_OUTPUT_BYTES, Outbox, no_sender
from celery_partitions.model.outcome import Outcome, Slot, States, Unreadable
from celery_partitions.model.outputs import Calling
from celery_partitions.model.own_lines import line_in
from celery_partitions.model.reply_request import longest_value, reply_text
from celery_partitions.model.rollback import Replay
from celery_partitions.model.step_failures import Failures
from celery_partitions.model.step_rules import StepRules
from celery_partitions.model.timers import OpenTimers
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
        self.out.fused = self.caller.fused
        self.touched = self.caller.touched
        #: Alarms of firings that were given up.
        self.alarms: list[Alarm] = []
        self.replay = Replay(self.caller, states, rules.pickling, self.out.done, self.answer, self.outbox)
        self.failures = Failures(self.out, rules, states, self.boxes, self.caller, self.replay, self.outbox, self.alarms)
        self.new_states = NewStates(self.out, rules, self.caller, self.replay, self.failures, self.alarms)
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
        opens_timers: OpenTimers | None = None
        only_stage: OnlyStage | None = None
        slots: Mapping[str, Slot | Unreadable] | None = None
        is_direct = False
        inline, gathered, sent = self.rules.inline, self.gathering.pending, self.outbox.sent
        partition, resources, keep = self.rules.partition, self.rules.resources, self.replay.keep
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
                    opens_timers = self.caller.timers(computation) if computation.takes_context else None
                else:
                    is_direct, only_stage = self.caller.is_direct(computation), self.caller.only_stage(computation)
                    slots = None if only_stage is None else only_stage.slots
            try:
                if computation.plain_call:
                    slot = table[key]
                    if type(slot) is not Slot:
                        if not self.boxes.wait_for_state(item, self.error_of(cast(Unreadable, slot), computation)):
                            break
                        waiting = self.boxes.parked
                        continue
                    touched[key] = slot
                    if opens_timers is not None:
                        attempt = self.boxes.attempt if careful else 1
                        context = ContextOf(key, item.envelope.headers.id, partition, item.raw, attempt, resources, opens_timers)  # type: ignore[arg-type]
                        if inline:
                            value = computation.function(item.message, slot.state, context)
                        else:
                            value = yield Call(computation, item, [item.message, slot.state, context])
                    elif inline:
                        value = computation.function(item.message, slot.state)
                    else:
                        value = yield Call(computation, item, [item.message, slot.state])
                    if sent or type(item) is ReplyRequest:
                        self.replay.share += self.outbox.share_of(item)
                        if type(item) is ReplyRequest:
                            self.answer(item, value)
                        if self.replay.share >= 1:
                            until = end = now - 1  # end the step: the commit is large enough
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
                elif only_stage is not None and item.message is not TIMER and (slots is None or type(slots[key]) is Slot):
                    keep(item, only_stage.call(item, self.boxes.attempt if careful else 1))
                    if self.replay.share >= 1:
                        until = end = now - 1
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
                    else:
                        yield from self.replay.call(item, item, self.boxes.attempt)
                    if self.replay.share >= 1:
                        until = end = now - 1
                if careful or limited:
                    self.replay.checkpoint(item)
                    self.caller.waited = False
            except GeneratorExit:  # the step is abandoned
                raise
            except BaseException as error:  # anything that a user's function raises is a failure of its message
                if not (yield from self.failures.fail([item], error)):
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
        if gathered:
            yield from self.gathering.end()
        yield from self.new_states.pickle()
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
                self.out.taken = int((yield from self.failures.fail([item], TimeLimitExceeded(text), self.gathering.halving)))
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
