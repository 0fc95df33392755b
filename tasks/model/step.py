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

from tasks.model.asking import spoken
from tasks.model.computation import Computation, Context
from tasks.model.errors import TimeLimitExceeded, say, trace_of
from tasks.model.messages import details_of
from tasks.model.outcome import Failure, Outcome, Parking, Pickling, Slot, States, Unreadable
from tasks.model.policy import GiveUp, RetryPolicy, TryAgain, Wait, after_failure
from tasks.model.reading import Asked, Broken, Item, Later, Ordinary, Skipped, Stray, Work


def call_unlimited(item: Work, arguments: list[Any]) -> Any:
    """Call the computation with no limit on its time."""
    return item.computation.function(*arguments)


def answer_nobody(item: Asked) -> None:
    """Where nobody waits for results, and nothing follows."""


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
    #: Calls a computation that has a time limit, and raises `TimeLimitExceeded` in it.
    call_limited: Callable[[Work, list[Any]], Any] = call_unlimited
    #: Makes an item's `commands` out of its `value`; what it raises is the message's failure.
    answer: Callable[[Asked], None] = answer_nobody


def step(
    items: Sequence[Item],
    states: States,
    rules: StepRules,
    *,
    parked: Container[str] = (),
    mailbox_lengths: Mapping[str, int] = MappingProxyType({}),
    mailbox_of: str | None = None,
    attempt: int = 1,
    failed: str | None = None,
) -> Outcome:
    """Apply `items` in order.

    `parked`: keys whose messages wait; theirs are mailed. `mailbox_lengths`: how many wait already. `mailbox_of`: the items
    are the mailbox of that parked key and the first of them is at its `attempt`-th try; then a failure that is to be tried
    again ends the step. `failed`: the first item, which stands alone, exceeded its time limit before, with this text: it
    counts as failed and is not called.
    The states' objects are changed in place; after a refused commit the caller drops them.
    """
    doing = _Step(items, states, rules, parked, mailbox_lengths, mailbox_of, attempt)
    return doing.run() if failed is None else doing.fail_first(failed)


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
        #: States that computations of this step were given, by computation, then key.
        self.touched: dict[Computation, dict[str, Slot]] = {}
        #: Where a replay begins: the state's bytes, and how many of `out.done` they include.
        self.checkpoints: dict[tuple[Computation, str], tuple[bytes | None, int]] = {}

    def run(self) -> Outcome:
        out, clock, parked_now = self.out, self.rules.clock, self.out.parked
        done, began, waiting = out.done.append, out.began.append, self.parked
        careful = self.mailbox_of is not None
        current: Computation | None = None
        table: Mapping[str, Slot | Unreadable] = {}
        touched: dict[str, Slot] = {}
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
                touched = self.touched.setdefault(computation, {})
            try:
                if computation.state is None:
                    value = self.call(item, None)
                else:
                    slot = table[key]
                    if type(slot) is not Slot:
                        self.bury(item, "unreadable-state", cast(Unreadable, slot).error, "", 1)
                        continue
                    touched[key] = slot
                    if computation.plain_call:
                        value = computation.function(item.message, slot.state)
                    else:
                        value = self.call(item, slot.state)
                if type(item) is Asked:
                    self.answer(item, value)
                if careful and computation.state is not None:
                    self.checkpoints[computation, key] = self.readable(item, touched[key].state), len(out.done) + 1
            except BaseException as error:  # whatever a user's function raises is that message's failure
                if not self.fail(item, error):
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
        self.pickle_touched()
        out.ended = clock()
        return out

    def fail_first(self, text: str) -> Outcome:
        """The first item counts as failed; nothing is called."""
        item = self.items[0]
        if isinstance(item, Work):
            self.touched[item.computation] = {}
            self.out.taken = int(self.fail(item, TimeLimitExceeded(text)))
            self.out.ended = self.rules.clock()
            return self.out
        return self.run()  # read otherwise than then: revoked meanwhile, say

    def answer(self, item: Asked, value: Any) -> None:
        """Keep the value as it is now: the computation may change it later."""
        item.value = spoken(item.computation, value)
        self.rules.answer(item)
        self.out.answered = True

    def call(self, item: Work, state: Any) -> Any:
        computation = item.computation
        arguments = [item.message] if computation.state is None else [item.message, state]
        if computation.takes_context:
            sent_at = details_of(item.raw).sent_at
            sent_at = sent_at if isinstance(sent_at, int | float) else None
            message_id = item.envelope.headers.id
            arguments.append(Context(item.key, message_id, self.rules.partition, sent_at, self.attempt))
        if computation.time_limit_seconds is None:
            return computation.function(*arguments)
        return self.rules.call_limited(item, arguments)

    @property
    def attempt(self) -> int:
        """Which try the message under work is at: only the first of a mailbox was tried before."""
        return self.first_attempt if self.mailbox_of is not None and self.out.taken == 0 else 1

    def pass_on(self, item: Stray | Later | Skipped | Ordinary | Broken) -> bool:
        """What is no work of this partition; False ends the step before it."""
        match item:
            case Stray(raw, partition):
                self.out.forwarded.setdefault(partition, []).append(raw)
            case Later():
                self.out.later.append(item)
            case Skipped():
                self.out.skipped.append(item)
            case Broken():
                self.out.dead.append((item, 0))
            case Ordinary():
                self.out.ordinary = item
                return False
            case _:
                assert_never(item)
        return True

    def fail(self, item: Work, error: BaseException) -> bool:
        """Undo what the failed try did, then park its key or bury it. False ends the step before the message."""
        failure = _failure(item, error, self.attempt)
        try:
            undone = self.replay(item.computation, item.key)
        except Exception as unreadable:
            self.give_up(item.computation, item.key, unreadable)
            self.bury(item, "unreadable-state", say(unreadable), failure.trace, failure.attempt)
            return True
        if undone is not None:
            self.park_from(undone, [item.raw])
            return self.mailbox_of is None
        self.out.failures.append(failure)
        follows = after_failure(
            self.rules.policy_of(item.computation), error, failure.attempt, self.rules.random
        )
        match follows:
            case GiveUp():
                self.bury(item, "computation-failed", failure.error, failure.trace, failure.attempt)
                return True
            case TryAgain(seconds):
                parking = Parking(failure, seconds, used_up=False)
            case Wait(seconds=wait, pause=pause):
                parking = Parking(failure, wait, used_up=True)
                self.out.pause = self.out.pause or pause
            case _:
                assert_never(follows)
        if self.mailbox_of is not None:
            # By the mailbox's name: the key extractor may have changed since the message was parked.
            self.out.parked[self.mailbox_of] = parking
            return False
        self.out.parked[item.key] = parking
        self.out.mailed.setdefault(item.key, []).append(item.raw)
        return True

    def mail(self, item: Work) -> bool:
        """Let a message of a parked key wait behind the others. False: its mailbox is full, and the partition pauses before it."""
        waiting = self.out.mailed.setdefault(item.key, [])
        most = self.rules.mailbox_messages
        if len(waiting) + self.mailbox_lengths.get(item.key, 0) < most:
            waiting.append(item.raw)
            return True
        if self.rules.policy_of(item.computation).then == "stop":
            self.out.pause = True
            return False
        error = f"{most} messages wait already for the parked key {item.key!r} (MAILBOX_MESSAGES)"
        self.bury(item, "mailbox-full", error, "", 0)
        return True

    def replay(self, computation: Computation, key: str) -> Failure | None:
        """Make the key's state again as its good messages of this step left it, from its last known bytes.

        Returns the failure of a message that went well at first and raises now; the state is then as before it.
        """
        if computation.state is None:
            return None
        slot = cast(Slot, self.states[computation.name][key])
        self.touched[computation].pop(key, None)
        bytes_now, included = self.checkpoints.get((computation, key), (slot.stored, 0))
        slot.state = self.rebuild(computation, key, bytes_now)
        for index in range(included, len(self.out.done)):
            earlier = self.out.done[index]
            if earlier.key != key or earlier.computation is not computation:
                continue
            try:
                fresh = computation.codec.decode(earlier.envelope.body)
                again = Work(earlier.raw, computation, key, fresh, earlier.envelope)
                value = self.call(again, slot.state)
                if type(earlier) is Asked:
                    self.answer(earlier, value)
                bytes_now = self.readable(again, slot.state)
            except BaseException as error:
                slot.state = self.rebuild(computation, key, bytes_now)
                if bytes_now is not slot.stored:
                    self.touched[computation][key] = slot
                return _failure(earlier, error, 1)
            self.checkpoints[computation, key] = bytes_now, index + 1
            self.touched[computation][key] = slot
        if bytes_now is not slot.stored:
            self.touched[computation][key] = slot
        return None

    def rebuild(self, computation: Computation, key: str, stored: bytes | None) -> Any:
        assert computation.state is not None
        return computation.state.new() if stored is None else self.rules.pickling.load(computation, key, stored)

    def readable(self, item: Work, state: Any) -> bytes:
        """The state's bytes, known to make a state again: some objects pickle, and do not unpickle."""
        pickling = self.rules.pickling
        made = pickling.dump(item.computation, item.key, state)
        pickling.load(item.computation, item.key, made)
        return made

    def park_from(self, failure: Failure, then: list[bytes]) -> None:
        """Take a message that had gone well, and all of its computation and key after it, back into the mailbox."""
        out, item = self.out, failure.item
        kept, back = [], []
        found = False
        for work, began in zip(out.done, out.began, strict=True):
            found = found or work is item
            if found and work.key == item.key and work.computation is item.computation:
                back.append(work.raw)
            else:
                kept.append((work, began))
        out.done[:], out.began[:] = [work for work, _ in kept], [began for _, began in kept]
        # Checkpoints count places in `done`, which has moved: every state is replayed from its bytes, if it must be.
        self.checkpoints.clear()
        out.failures.append(failure)
        seconds = self.rules.policy_of(item.computation).wait_after(1, self.rules.random())
        out.parked[item.key] = Parking(failure, seconds, used_up=False)
        out.mailed[item.key] = back + then + out.mailed.get(item.key, [])

    def give_up(self, computation: Computation, key: str, error: Exception) -> None:
        """The state's own bytes can't be read back: all that this step did to it is undone, into dead letters."""
        out = self.out
        keep = [not (work.key == key and work.computation is computation) for work in out.done]
        for work, kept in zip(out.done, keep, strict=True):
            if not kept:
                self.bury(work, "unreadable-state", say(error), "", 1)
        out.done[:], out.began[:] = list(compress(out.done, keep)), list(compress(out.began, keep))
        self.checkpoints.clear()
        self.touched[computation].pop(key, None)
        cast(dict[str, Any], self.states[computation.name])[key] = Unreadable(say(error))

    def bury(self, item: Work, reason: str, error: str, trace: str, attempts: int) -> None:
        headers = item.envelope.headers
        self.out.dead.append((Broken(item.raw, reason, error, trace, headers.task, headers.id, item.key), attempts))

    def pickle_touched(self) -> None:
        """New bytes of every state that changed. Of one that can't be pickled, the message that spoiled it fails."""
        dump = self.rules.pickling.dump
        for computation, slots in self.touched.items():
            changed = self.out.states.setdefault(computation.name, {})
            for key, slot in list(slots.items()):
                try:
                    after = dump(computation, key, slot.state)
                except Exception:
                    try:
                        undone = self.replay(computation, key)
                    except Exception as unreadable:
                        self.give_up(computation, key, unreadable)
                        continue
                    if undone is not None:
                        self.park_from(undone, [])
                    if key not in slots:
                        continue
                    after = dump(computation, key, slot.state)
                if after != slot.stored:
                    changed[key] = after


def _failure(item: Work, error: BaseException, attempt: int) -> Failure:
    return Failure(item, say(error), trace_of(error), attempt, error)
