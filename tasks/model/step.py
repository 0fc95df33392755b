"""The pure step: takes messages and states, and decides new states, outputs and failures.

Law 3: messages of one key are applied in queue order, one at a time, each to the state that the previous one left.
If a computation raises, the key's state is as before its message: it is restored from its bytes, and the key's earlier successful messages
in this batch are applied again, as fresh copies. So a computation may be called more than once for a message, but its effect on the state
counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from itertools import compress
from types import MappingProxyType
from typing import Any, Literal, assert_never, cast

from celery_partitions.model.caller import Call, Caller, Calling, Calls
from celery_partitions.model.computation import Computation, StageNode
from celery_partitions.model.effects import TURN_REASONS, Alarm, ParkedKey
from celery_partitions.model.errors import EventTimeAhead, TimeLimitExceeded, describe
from celery_partitions.model.executors import call_and_wait
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
from celery_partitions.model.outbox import SHARED_OUTPUT_BYTES, Outbox
from celery_partitions.model.outcome import GONE, Failure, Outcome, Park, Slot, States, Unreadable, Waiting
from celery_partitions.model.own_lines import is_own_line, own_line
from celery_partitions.model.policy import GiveUp, TryAgain, Wait, after_failure
from celery_partitions.model.rate_limit import NoToken
from celery_partitions.model.reply_request import longest_value, reply_text
from celery_partitions.model.rollback import Replay, failure_of
from celery_partitions.model.step_rules import StepRules
from celery_partitions.model.timers import EXPIRY, next_alarm, touch
from celery_partitions.model.values import TIMER

#: The longest time until a waiting key or line is tried again: a deploy that ends is noticed within this.
LONGEST_WAIT_SECONDS = 60.0


class StepMachine:
    """A step without I/O. While `call` is not None, call it, and pass the result to `returned` or the exception to `raised`. Then read
    `outcome`. Make each call in `with outbox.active()`, so that what the computation sends is part of the outcome.

    `parked`: parked keys, whose messages go to their mailboxes. `mailbox_lengths`: the number of messages waiting there. `mailbox_of`: the
    items come from this parked key's mailbox, and the first is at try number `attempt`; then a failure to be retried ends the step.
    `own_lines`: those of `parked` that are own lines. `line`: the items come from this task's line. `waited_out`: messages of the mailbox or
    line have waited long enough, and become dead letters if they still can't be processed. `waited`: the first message comes at a time that
    its rate limit has promised.
    `failed`: the only item exceeded its time limit before, with this error. It counts as failed and is not called.
    The step changes the state objects in place. After a refused commit, the caller must drop them.
    """

    def __init__(
        self,
        items: Sequence[Item],
        states: States,
        rules: StepRules,
        *,
        parked: Container[str] = (),
        mailbox_lengths: Mapping[str, int] = MappingProxyType({}),
        own_lines: Collection[str] = (),
        mailbox_of: str | None = None,
        attempt: int = 1,
        line: str | None = None,
        waited_out: bool = False,
        waited: bool = False,
        failed: str | None = None,
    ) -> None:
        doing = _Step(items, states, rules, parked, mailbox_lengths, own_lines, mailbox_of, attempt, line, waited_out, waited)
        if rules.begins is not None:
            rules.begins(doing.current)
        self.outbox = doing.outbox
        self._calls = doing.run() if failed is None else doing.fail_first(failed)
        self._outcome: Outcome | None = None
        #: The next call to make. None: the step is done.
        self.call: Call | None = None
        self._go_on(lambda: next(self._calls))

    def returned(self, value: Any) -> None:
        """The computation of `call` returned this."""
        self._go_on(lambda: self._calls.send(value))

    def raised(self, error: BaseException) -> None:
        """The computation of `call` raised this."""
        self._go_on(lambda: self._calls.throw(error))

    @property
    def outcome(self) -> Outcome:
        """What the step decided. Raises `RuntimeError` while there is a call to make."""
        if self._outcome is None:
            raise RuntimeError(f"the step is not finished; make this call first: {self.call}")
        return self._outcome

    def _go_on(self, to_next: Callable[[], Call]) -> None:
        try:
            with self.outbox.active():  # the machine may call computations directly
                self.call = to_next()
        except StopIteration as end:
            self.call, self._outcome = None, end.value


def call_directly(call: Call) -> Any:
    """Call the computation in this thread, without a time limit. A coroutine runs to its end, before anything else."""
    if call.computation.executor == "async":
        return call_and_wait(call.computation.function, call.arguments)
    return call.computation.function(*call.arguments)


def step(
    items: Sequence[Item], states: States, rules: StepRules, *, call: Callable[[Call], Any] = call_directly, **how: Any
) -> Outcome:
    """Run a step, making its calls one after the other with `call`. Returns its outcome. `how`: as for `StepMachine`."""
    machine = StepMachine(items, states, rules, **how)
    while machine.call is not None:
        try:
            with machine.outbox.active():
                value = call(machine.call)
        except BaseException as error:  # anything that a user's function raises is a failure of its message
            machine.raised(error)
        else:
            machine.returned(value)
    return machine.outcome


class _Either:
    """A key that is in one of two containers."""

    def __init__(self, one: Container[str], other: Container[str]) -> None:
        self.one, self.other = one, other

    def __contains__(self, key: object) -> bool:
        return key in self.one or key in self.other


class _Step:
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
    ) -> None:
        self.items, self.states, self.rules = items, states, rules
        self.line, self.waited_out, self.waited = line, waited_out, waited
        self.mailbox_lengths = mailbox_lengths
        self.parked, self.mailbox_of, self.first_attempt = parked, mailbox_of, attempt
        #: With those that this step parks. The one whose mailbox the items come from does not count.
        self.own_lines = set(own_lines)
        self.own_lines.discard(mailbox_of or "")
        self.known: Mapping[str, object] = parked if isinstance(parked, Mapping) else {}
        self.out = Outcome()
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

    def current(self) -> tuple[Work, int] | None:
        """The message being applied, and the number of its try. None: no message is."""
        if self.replay.again is not None:
            return self.replay.again, 1
        item = self.items[self.out.taken] if self.out.taken < len(self.items) else None
        return (item, self.attempt) if isinstance(item, Work) else None

    def sender(self) -> Work | None:
        """The item being applied. None: no message is."""
        if self.replay.original is not None:
            return self.replay.original
        item = self.items[self.out.taken] if self.out.taken < len(self.items) else None
        return item if isinstance(item, Work) else None

    def run(self) -> Calls[Outcome]:
        out, clock, parked_now, own_lines = self.out, self.rules.clock, self.out.parked, self.own_lines
        done, began, waiting = out.done.append, out.began.append, self.parked
        careful = self.mailbox_of is not None
        current: Computation | None = None
        table: Mapping[str, Slot | Unreadable] = {}
        touched: dict[str, Slot] = {}
        only_stage: StageNode | None = None
        inline = self.rules.inline
        #: Whether messages have rate limits, so that a rollback must not call those before again.
        limited = False
        now = clock()
        until = now + self.rules.seconds
        taken = 0
        for item in self.items:
            out.taken = taken
            if now > until and taken:
                break
            taken += 1
            if not isinstance(item, Work):
                if not self.pass_on(item):
                    break
                waiting = self.parked
                continue
            key, computation = item.key, item.computation
            if (waiting and key in waiting and not careful) or (parked_now and key in parked_now):
                if not self.mail(item, key):
                    break
                continue
            if own_lines and (line := own_line(key, computation.line)) in own_lines:
                if not self.mail(item, line):
                    break
                continue
            if computation is not current:
                current = computation
                table = self.states.get(computation.name, {})
                limited = not computation.plain_call and computation.has_rate_limit
                if computation.plain_call:
                    touched = self.touched.setdefault(computation, {})
                else:
                    only_stage = self.caller.only_stage(computation)
            try:
                if computation.plain_call:
                    slot = table[key]
                    if type(slot) is not Slot:
                        if not self.wait_for_state(item, self.error_of(cast(Unreadable, slot), computation)):
                            break
                        waiting = self.parked
                        continue
                    touched[key] = slot
                    if inline:
                        value = computation.function(item.message, slot.state)
                    else:
                        value = yield Call(computation, item, [item.message, slot.state])
                    if type(item) is ReplyRequest:
                        self.answer(item, value)
                        if self.replay.share >= 1:
                            until = now - 1
                else:
                    unreadable = self.unreadable(item)
                    if unreadable is not None:
                        if not self.wait_for_state(item, unreadable):
                            break
                        waiting = self.parked
                        continue
                    if only_stage is not None and item.message is not TIMER:
                        self.replay.keep(item, self.caller.call_only(only_stage, item, self.attempt))
                    else:
                        yield from self.replay.call(item, item, self.attempt)
                    if self.replay.share >= 1:
                        until = now - 1  # end the step: the commit is large enough
                if careful or limited:
                    self.replay.checkpoint(item)
                    self.caller.waited = False
            except GeneratorExit:  # the step is abandoned
                raise
            except BaseException as error:  # anything that a user's function raises is a failure of its message
                if not (yield from self.fail(item, error)):
                    break
                waiting = self.parked
                if out.pause:
                    out.taken = taken
                    break
            else:
                done(item)
                began(now)
            now = clock()
        else:
            out.taken = taken
        yield from self.pickle_touched()
        for stage in self.touched:
            if stage.state is not None and stage.state.is_versioned:
                out.versions[stage.name] = stage.state.version
        out.emitted, out.late = [*self.replay.outputs(), *self.alarms], self.replay.late()
        out.ended = clock()
        return out

    def fail_first(self, text: str) -> Calls[Outcome]:
        """Count the first item as failed, without a call."""
        item = self.items[0]
        if isinstance(item, Work):
            self.caller.at = item.computation.limited
            self.out.taken = int((yield from self.fail(item, TimeLimitExceeded(text))))
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

    @property
    def attempt(self) -> int:
        """The number of the current message's try. Only the first message of a mailbox was tried before."""
        return self.first_attempt if self.mailbox_of is not None and self.out.taken == 0 else 1

    def pass_on(self, item: Misrouted | Delayed | Skipped | PlainTask | UnknownTask | DeadLetterItem | Apart) -> bool:
        """Handle an item that is not work of this partition. Returns False to end the step before it."""
        match item:
            case Misrouted(raw, partition):
                self.out.forwarded.setdefault(partition, []).append(raw)
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
                return self.wait_for_task(item)
            case _:
                assert_never(item)
        return True

    def wait_for_task(self, item: UnknownTask) -> bool:
        """Let a message wait in the mailbox of its key or line. Returns False to end the step before it, because it is there already."""
        out, here = self.out, self.mailbox_of if self.line is None else self.line
        if self.waited_out:
            out.dead.append((DeadLetterItem(item.raw, "unknown-task", item.error, "", item.task, item.message_id, item.key), 0))
        elif here is not None:
            if self.line is not None or not out.taken:  # else the messages before it are committed first
                out.waiting[here] = self.waiting("unknown-task", item.error, item.task, item.message_id, self.first_attempt)
            return False
        elif self.has_room(item.line):
            if item.line not in self.parked and item.line not in out.parked:
                first = self.waiting("unknown-task", item.error, item.task, item.message_id, 1)
                out.waiting.setdefault(item.line, first)
                if item.key is not None and not isinstance(self.parked, _Either):
                    self.parked = _Either(self.out.waiting, self.parked)
            out.mailed.setdefault(item.line, []).append(item.raw)
        else:
            error = f"{item.error}; and {self.rules.mailbox_messages} of its messages wait already (PARTITIONS_MAILBOX_MESSAGES)"
            out.dead.append((DeadLetterItem(item.raw, "unknown-task", error, "", item.task, item.message_id, item.key), 0))
        return True

    def wait_for_state(self, item: Work, error: str) -> bool:
        """Let a key wait whose state can't be read. Returns False to end the step before the message."""
        if (self.waited_out and self.line is None) or not self.rules.unreadable_waits:
            self.add_dead_letter(item, "unreadable-state", error, "", 1)
            return True
        headers = item.envelope.headers
        place = self.place_of(item)
        if place == self.mailbox_of and self.out.taken:
            return False  # the messages before it are committed first
        self.out.waiting[place] = self.waiting("unreadable-state", error, headers.task, headers.id, self.attempt)
        if not isinstance(self.parked, _Either):
            self.parked = _Either(self.out.waiting, self.parked)
        return place != self.mailbox_of and self.mail(item, place)

    def wait_for_turn(self, item: Work, reason: Literal["rate"], seconds: float) -> bool:
        """Let a key wait until it is its turn. Returns False to end the step before the message, because it is in the mailbox already."""
        headers = item.envelope.headers
        place = self.place_of(item)
        self.out.waiting[place] = Waiting(reason, "", headers.task, headers.id, self.attempt, seconds)
        if place == self.mailbox_of:
            return False
        if not isinstance(self.parked, _Either):
            self.parked = _Either(self.out.waiting, self.parked)
        return self.mail(item, place)

    def waiting(self, reason: Literal["unknown-task", "unreadable-state"], error: str, task: str | None, message_id: str | None, attempt: int) -> Waiting:
        seconds = min(LONGEST_WAIT_SECONDS, 2.0 ** min(attempt - 1, 64)) * (0.9 + 0.2 * self.rules.random())
        return Waiting(reason, error, task, message_id, attempt, seconds)

    def fail(self, item: Work, error: BaseException) -> Calls[bool]:
        """Undo the failed try, then park the key or make a dead letter of the message. Returns False to end the step before the message."""
        if isinstance(error, EventTimeAhead):  # before any stage was called
            self.add_dead_letter(item, error.reason, str(error), "", self.attempt)
            return True
        self.outbox.drop(item)
        if isinstance(error, NoToken) and item.computation.role == "task":  # nothing was called
            return self.wait_for_turn(item, "rate", error.seconds)
        at = self.failed_at(item)
        failure = failure_of(item, error, self.attempt, at)
        try:
            undone = yield from self.replay.run(item)
        except Exception as unreadable:
            self.give_up(item, unreadable)
            self.add_dead_letter(item, "unreadable-state", describe(unreadable), failure.trace, failure.attempt)
            return True
        if undone is not None:
            self.park_from(undone, [item.raw])
            return self.mailbox_of is None
        if isinstance(error, NoToken):
            return self.wait_for_turn(item, "rate", error.seconds)
        self.out.failures.append(failure)
        follows = after_failure(self.rules.policy_of(at), error, failure.attempt, self.rules.random)
        match follows:
            case GiveUp():
                self.add_dead_letter(item, "computation-failed", failure.error, failure.trace, failure.attempt)
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
        place = self.place_of(item)
        self.out.parked[place] = park
        if place == self.mailbox_of:
            return False
        self.out.mailed.setdefault(place, []).append(item.raw)
        return True

    def go_on_with_timer(self, item: Work, owner: Computation) -> None:
        """A firing of a timer was given up. If the timer repeats itself, set the alarm for its next run."""
        slot = self.states[owner.name][item.key]
        alarm = next_alarm(item.computation, item.key, slot, self.rules.now) if type(slot) is Slot else None
        if alarm is not None:
            self.alarms.append(alarm)

    def place_of(self, item: Work) -> str:
        """Where a message waits that was tried now: in its key's mailbox, or in an own line. An own line is noted as parked."""
        place = item.key if self.mailbox_of is None else self.mailbox_of  # the key extractor may have changed since the message was parked
        if item.computation.holds == "computation" and not is_own_line(place):
            place = own_line(item.key, item.computation.line)
            self.own_lines.add(place)
        return place

    def failed_at(self, item: Work) -> Computation:
        """The computation to which the failure belongs. Call it right after the message has failed."""
        return item.computation if item.computation.role == "task" else self.caller.at or item.computation

    def mail(self, item: Work, place: str) -> bool:
        """Put a message of a parked key or own line into the mailbox. If the mailbox is full, make a dead letter, or pause the partition before the
        message and return False."""
        if self.has_room(place):
            self.out.mailed.setdefault(place, []).append(item.raw)
            return True
        limit = self.rules.mailbox_messages
        if self.rules.policy_of(item.computation).exhausted == "stop":
            self.out.pause = True
            return False
        error = f"the mailbox of the parked key {item.key!r} is full: {limit} messages (PARTITIONS_MAILBOX_MESSAGES)"
        self.add_dead_letter(item, "mailbox-full", error, "", 0)
        return True

    def has_room(self, key: str) -> bool:
        """Whether one more message may wait for a key. Those that wait only for their turn have no limit."""
        one = self.out.waiting.get(key) or self.known.get(key)
        if isinstance(one, Waiting | ParkedKey) and one.reason in TURN_REASONS:
            return True
        return len(self.out.mailed.get(key, ())) + self.mailbox_lengths.get(key, 0) < self.rules.mailbox_messages

    def park_from(self, failure: Failure, then: list[bytes]) -> None:
        """Put a message that had succeeded, and all later ones of its scope and key, into the mailbox."""
        out, item = self.out, failure.item
        kept, back = [], []
        found = False
        for work, began in zip(out.done, out.began, strict=True):
            found = found or work is item
            if found and work.key == item.key and work.computation.scope == item.computation.scope:
                back.append(work.raw)
            else:
                kept.append((work, began))
        out.done[:], out.began[:] = [work for work, _ in kept], [began for _, began in kept]
        # Checkpoints refer to indexes in `done`, which have changed. Without them, states are replayed from their bytes.
        self.replay.checkpoints.clear()
        out.failures.append(failure)
        seconds = self.rules.policy_of(self.failed_at(item)).wait_after(1, self.rules.random())
        place = self.place_of(item)
        out.parked[place] = Park(failure, seconds, used_up=False)
        out.mailed[place] = back + then + out.mailed.get(place, [])

    def give_up(self, item: Work, error: Exception) -> None:
        """A state's bytes can't be read back. Undo everything that this step did for the key, and make dead letters of its messages."""
        out, scope, key = self.out, item.computation.scope, item.key
        keep = [not (work.key == key and work.computation.scope == scope) for work in out.done]
        for work, kept in zip(out.done, keep, strict=True):
            if not kept:
                self.add_dead_letter(work, "unreadable-state", describe(error), "", 1)
        out.done[:], out.began[:] = list(compress(out.done, keep)), list(compress(out.began, keep))
        self.replay.checkpoints.clear()
        for stage in self.replay.slots_of(scope, key):
            self.touched[stage].pop(key)
            out.states.get(stage.name, {}).pop(key, None)
            cast(dict[str, Any], self.states[stage.name])[key] = Unreadable(describe(error))

    def add_dead_letter(self, item: Work, reason: str, error: str, trace: str, attempts: int) -> None:
        headers = item.envelope.headers
        self.out.dead.append((DeadLetterItem(item.raw, reason, error, trace, headers.task, headers.id, item.key), attempts))

    def pickle_touched(self) -> Calls[None]:
        """Pickle every changed state. If one can't be pickled, the message that made it so fails."""
        dump = self.rules.pickling.dump
        for stage, slots in list(self.touched.items()):  # a copy, because a rollback calls computations, which may touch other states
            changed = self.out.states.setdefault(stage.name, {})
            expires = stage.ttl_ms is not None
            for key, slot in list(slots.items()):
                try:
                    after = GONE if expires and not self.is_kept(stage, key, slot) else dump(stage, key, slot.state, slot.timers)
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
                return EXPIRY in (slot.timers or {})
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

