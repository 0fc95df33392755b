"""The pure step: messages × states → new states, what goes elsewhere, and failures.

Law 3: messages of one key are applied in queue order, one at a time, each on the state that the one before left.
A computation that raises leaves the state as it was before its message: the key's state is made again from its bytes
and the messages of this batch that went well before are applied again (to fresh copies). So a computation may be called
more than once for a message; what it does to its state counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from types import MappingProxyType
from typing import Any, assert_never, cast

from celery_partitions.model.caller import Call, Caller, Calling, Calls
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import TimeLimitExceeded, describe
from celery_partitions.model.items import (
    DeadLetterItem,
    Delayed,
    Item,
    Misrouted,
    PlainTask,
    ReplyRequest,
    Skipped,
    Work,
)
from celery_partitions.model.message_writer import MessageWriter
from celery_partitions.model.messages import MAX_BYTES
from celery_partitions.model.outcome import Failure, Outcome, Park, Pickling, Slot, States, Unreadable
from celery_partitions.model.policy import GiveUp, RetryPolicy, TryAgain, Wait, after_failure
from celery_partitions.model.reply_request import longest_value, reply_text
from celery_partitions.model.rollback import SHARED_OUTPUT_BYTES, Replay, failure_of


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRules:
    """What bounds a step."""

    partition: int
    #: The policy in force for failures of a computation.
    policy_of: Callable[[Computation], RetryPolicy]
    #: So many messages wait for one parked key, at most.
    mailbox_messages: int
    pickling: Pickling
    clock: Callable[[], float]
    #: 0 to 1, for jitter.
    random: Callable[[], float]
    #: By `clock`: past this the step ends with what it has (always at least one message).
    seconds: float
    #: Whether the machine itself calls computations that have no time limit. It asks for all others. The outcome is the same; most
    #: computations take less time than asking for them.
    inline: bool = True
    #: The longest message that a worker decodes (MESSAGE_BYTES); it bounds the values that are sent on.
    message_bytes: int = MAX_BYTES
    #: Makes the messages of outputs; None where no pipeline is.
    writer: MessageWriter | None = None
    #: Seconds since the epoch by the server's clock: what windows take for the time.
    now: float = 0.0


class StepMachine:
    """A step without I/O. Ask for its next `call`, tell it what the computation returned or raised, and go on until it wants no more
    calls; then take its `outcome`.

    `parked`: keys whose messages wait; theirs are mailed. `mailbox_lengths`: how many wait already. `mailbox_of`: the items
    are the mailbox of that parked key and the first of them is at its `attempt`-th try; then a failure that is to be tried
    again ends the step. `failed`: the first item, which stands alone, exceeded its time limit before, with this text: it
    counts as failed and is not called.
    The states' objects are changed in place; after a refused commit the caller drops them.
    """

    def __init__(
        self,
        items: Sequence[Item],
        states: States,
        rules: StepRules,
        *,
        parked: Container[str] = (),
        mailbox_lengths: Mapping[str, int] = MappingProxyType({}),
        mailbox_of: str | None = None,
        attempt: int = 1,
        failed: str | None = None,
    ) -> None:
        doing = _Step(items, states, rules, parked, mailbox_lengths, mailbox_of, attempt)
        self._calls = doing.run() if failed is None else doing.fail_first(failed)
        self._outcome: Outcome | None = None
        #: What is to be called next; None: the step is done.
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
        """What the step decided, once there are no more calls."""
        if self._outcome is None:
            raise RuntimeError(f"the step has no outcome yet: {self.call} is to be called")
        return self._outcome

    def _go_on(self, to_next: Callable[[], Call]) -> None:
        try:
            self.call = to_next()
        except StopIteration as end:
            self.call, self._outcome = None, end.value


def call_directly(call: Call) -> Any:
    """Call the computation here, with no limit on its time."""
    return call.computation.function(*call.arguments)


def step(
    items: Sequence[Item], states: States, rules: StepRules, *, call: Callable[[Call], Any] = call_directly, **how: Any
) -> Outcome:
    """The outcome of a step whose calls are made one after the other, by `call`. `how`: as for `StepMachine`."""
    machine = StepMachine(items, states, rules, **how)
    while machine.call is not None:
        try:
            value = call(machine.call)
        except BaseException as error:  # whatever a user's function raises is that message's failure
            machine.raised(error)
        else:
            machine.returned(value)
    return machine.outcome


class _Step:
    def __init__(
        self,
        items: Sequence[Item],
        states: States,
        rules: StepRules,
        parked: Container[str],
        mailbox_lengths: Mapping[str, int],
        mailbox_of: str | None,
        attempt: int,
    ) -> None:
        self.items, self.states, self.rules = items, states, rules
        self.mailbox_lengths = mailbox_lengths
        self.parked, self.mailbox_of, self.first_attempt = parked, mailbox_of, attempt
        self.out = Outcome()
        calling = Calling(
            partition=rules.partition,
            pickling=rules.pickling,
            inline=rules.inline,
            writer=rules.writer,
            now=rules.now,
        )
        self.caller = Caller(states, calling)
        self.touched = self.caller.touched
        self.replay = Replay(self.caller, states, rules.pickling, self.out.done, self.answer)

    def run(self) -> Calls[Outcome]:
        out, clock, parked_now = self.out, self.rules.clock, self.out.parked
        done, began, waiting = out.done.append, out.began.append, self.parked
        careful = self.mailbox_of is not None
        current: Computation | None = None
        table: Mapping[str, Slot | Unreadable] = {}
        touched: dict[str, Slot] = {}
        inline = self.rules.inline
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
                continue
            key, computation = item.key, item.computation
            if (waiting and key in waiting and not careful) or (parked_now and key in parked_now):
                if not self.mail(item):
                    break
                continue
            if computation is not current:
                current = computation
                table = self.states.get(computation.name, {})
                if computation.plain_call:
                    touched = self.touched.setdefault(computation, {})
            try:
                if computation.plain_call:
                    slot = table[key]
                    if type(slot) is not Slot:
                        self.add_dead_letter(item, "unreadable-state", cast(Unreadable, slot).error, "", 1)
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
                        self.add_dead_letter(item, "unreadable-state", unreadable, "", 1)
                        continue
                    yield from self.replay.call(item, item, self.attempt)
                    if self.replay.share >= 1:
                        until = now - 1  # the next step goes on; a commit has a size
                if careful:
                    self.replay.checkpoint(item)
            except GeneratorExit:  # the step is dropped
                raise
            except BaseException as error:  # whatever a user's function raises is that message's failure
                if not (yield from self.fail(item, error)):
                    break
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
        out.emitted = self.replay.outputs()
        out.ended = clock()
        return out

    def fail_first(self, text: str) -> Calls[Outcome]:
        """The first item counts as failed; nothing is called."""
        item = self.items[0]
        if isinstance(item, Work):
            self.caller.at = item.computation.limited
            self.out.taken = int((yield from self.fail(item, TimeLimitExceeded(text))))
            self.out.ended = self.rules.clock()
            return self.out
        return (yield from self.run())  # read otherwise than then: revoked meanwhile, say

    def answer(self, item: ReplyRequest, value: Any) -> None:
        """Keep the value as it is now: the computation may change it later. Raises `ReplyError`."""
        item.value = reply_text(item.computation, value, longest_value(item.envelope.body, item.raw, self.rules.message_bytes))
        self.replay.share += (len(item.value) + len(item.raw)) / SHARED_OUTPUT_BYTES
        self.out.answered = True

    def unreadable(self, item: Work) -> str | None:
        """Why one of the states that the message may change can't be read, if so."""
        for stage in item.computation.stateful:
            slot = self.states[stage.name][item.key]
            if type(slot) is not Slot:
                return cast(Unreadable, slot).error
        return None

    @property
    def attempt(self) -> int:
        """Which try the message under work is at: only the first of a mailbox was tried before."""
        return self.first_attempt if self.mailbox_of is not None and self.out.taken == 0 else 1

    def pass_on(self, item: Misrouted | Delayed | Skipped | PlainTask | DeadLetterItem) -> bool:
        """What is no work of this partition; False ends the step before it."""
        match item:
            case Misrouted(raw, partition):
                self.out.forwarded.setdefault(partition, []).append(raw)
            case Delayed():
                self.out.delayed.append(item)
            case Skipped():
                self.out.skipped.append(item)
            case DeadLetterItem():
                self.out.dead.append((item, 0))
            case PlainTask():
                self.out.plain_task = item
                return False
            case _:
                assert_never(item)
        return True

    def fail(self, item: Work, error: BaseException) -> Calls[bool]:
        """Undo what the failed try did, then park its key or make a dead letter of the message. False ends the step before the message."""
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
        self.out.failures.append(failure)
        follows = after_failure(self.rules.policy_of(at), error, failure.attempt, self.rules.random)
        match follows:
            case GiveUp():
                self.add_dead_letter(item, "computation-failed", failure.error, failure.trace, failure.attempt)
                return True
            case TryAgain(seconds):
                park = Park(failure, seconds, used_up=False)
            case Wait(seconds=wait, pause=pause):
                park = Park(failure, wait, used_up=True)
                self.out.pause = self.out.pause or pause
            case _:
                assert_never(follows)
        if self.mailbox_of is not None:
            # By the mailbox's name: the key extractor may have changed since the message was parked.
            self.out.parked[self.mailbox_of] = park
            return False
        self.out.parked[item.key] = park
        self.out.mailed.setdefault(item.key, []).append(item.raw)
        return True

    def failed_at(self, item: Work) -> Computation:
        """The computation whose failure it is, right after the message has failed."""
        return item.computation if item.computation.role == "task" else self.caller.at or item.computation

    def mail(self, item: Work) -> bool:
        """Let a message of a parked key wait behind the others. False: its mailbox is full, and the partition pauses before it."""
        waiting = self.out.mailed.setdefault(item.key, [])
        limit = self.rules.mailbox_messages
        if len(waiting) + self.mailbox_lengths.get(item.key, 0) < limit:
            waiting.append(item.raw)
            return True
        if self.rules.policy_of(item.computation).exhausted == "stop":
            self.out.pause = True
            return False
        error = f"{limit} messages wait already for the parked key {item.key!r} (PARTITIONS_MAILBOX_MESSAGES)"
        self.add_dead_letter(item, "mailbox-full", error, "", 0)
        return True

    def park_from(self, failure: Failure, then: list[bytes]) -> None:
        """Take a message that had gone well, and all of its scope and key after it, back into the mailbox."""
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
        # Checkpoints count places in `done`, which has moved: every state is replayed from its bytes, if it must be.
        self.replay.checkpoints.clear()
        out.failures.append(failure)
        seconds = self.rules.policy_of(self.failed_at(item)).wait_after(1, self.rules.random())
        out.parked[item.key] = Park(failure, seconds, used_up=False)
        out.mailed[item.key] = back + then + out.mailed.get(item.key, [])

    def give_up(self, item: Work, error: Exception) -> None:
        """A state's own bytes can't be read back: all that this step did to the key is undone, into dead letters."""
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
        """New bytes of every state that changed. Of one that can't be pickled, the message that spoiled it fails."""
        dump = self.rules.pickling.dump
        for stage, slots in list(self.touched.items()):  # mending calls computations, which may go another way
            changed = self.out.states.setdefault(stage.name, {})
            for key, slot in list(slots.items()):
                try:
                    after = dump(stage, key, slot.state)
                except Exception:
                    yield from self.roll_back(stage, key)
                    continue
                if after != slot.stored:
                    changed[key] = after

    def roll_back(self, spoiled: Computation, key: str) -> Calls[None]:
        """The key's state can't be pickled: fail the message that made it so, and pickle what is left of the key's states."""
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
            after = self.rules.pickling.dump(stage, key, slot.state)
            if after != slot.stored:
                self.out.states.setdefault(stage.name, {})[key] = after

