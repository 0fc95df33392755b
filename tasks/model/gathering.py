"""What a step does with the messages of batch computations (`flush_every=`): it collects a key's messages, and calls them together.

In a batch of the queue, a key's messages are called as soon as there are enough, or when a message of another computation comes behind them.
What is left at the end of the step moves to the key's mailbox and waits there, with the reason `gather`. In a batch of a mailbox, the first
messages are called, because their time has come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from msgspec import structs

from celery_partitions.model.caller import Call, Calls
from celery_partitions.model.errors import ReplyError, TimeLimitExceeded
from celery_partitions.model.halving import NOT_HALVED, Halving
from celery_partitions.model.items import ReplyRequest, Work
from celery_partitions.model.outcome import Waiting
from celery_partitions.model.rollback import failure_of

if TYPE_CHECKING:
    from celery_partitions.model.batch_step import BatchStep


class Gathering:
    """Made once per step. `halving`: of the first messages, which come from a mailbox. `gathers`: messages wait for more; if not, they are called
    at the end of the step."""

    def __init__(self, step: BatchStep, halving: Halving, *, gathers: bool) -> None:
        self.step, self.halving, self.gathers = step, halving, gathers
        #: Key → messages of one computation that were met in a batch of the queue and not called yet, oldest first.
        self.pending: dict[str, list[Work]] = {}
        #: Keys that had a call with `flush_every` messages in this step.
        self.full: set[str] = set()
        #: The messages that are being called.
        self.called: Sequence[Work] = ()

    def add(self, item: Work) -> Calls[bool]:
        """Add a message of the queue whose key does not wait. Calls it, with those before it, if they are enough. Returns False to end the step
        before the message."""
        flush, key = item.computation.flush, item.key
        assert flush is not None
        if self.step.rules.calls_apart and item.computation.executor != "loop":
            return self.step.boxes.wait_for_turn([item], "gather", flush.seconds if flush.every > 1 else 0.0)
        pending = self.pending.setdefault(key, [])
        pending.append(item)
        if len(pending) < flush.every:
            return True
        self.full.add(key)
        return (yield from self.call(self.pending.pop(key)))

    def end(self) -> Calls[None]:
        """The step ends. Messages that were not called wait in their keys' mailboxes for more. Those that lay in the queue with a full call do not:
        else all later ones would have to pass through the mailbox, while a backlog is worked off."""
        for key, works in self.pending.items():
            flush = works[0].computation.flush
            assert flush is not None
            if self.gathers and key not in self.full:
                self.step.boxes.wait_for_turn(works, "gather", flush.seconds)
            else:
                yield from self.call(works)

    def of_mailbox(self, at: int, until: float) -> Calls[None]:
        """Call the messages of a mailbox from the item with this index on, as long as they are complete, and `until` this time. Sets how many items the
        step takes, and when the next call is due."""
        step, out, items = self.step, self.step.out, self.step.items
        place, length = step.boxes.mailbox_of, step.boxes.mailbox_lengths.get(step.boxes.mailbox_of or "", 0)
        assert place is not None
        is_due = not any(isinstance(one, Work) for one in items[:at])
        self.halving = self.halving if is_due else NOT_HALVED
        works, is_complete = self.leading(at, self.halving.size)
        out.taken = at
        while is_due or is_complete:
            if not (yield from self.call(works)):
                return
            out.taken += len(works)
            is_due, self.halving = False, self.halving.after(len(works))
            if self.halving.suspects:
                out.waiting[place] = Waiting("gather", "", works[0].computation.name, None, 1, 0.0, self.halving)
                return
            works, is_complete = self.leading(out.taken) if out.taken < len(items) else ([], True)
            if not works or step.replay.share >= 1 or step.rules.clock() > until:
                return
        if out.taken + len(works) == length:  # else more are there
            step.boxes.wait_for_turn(works, "gather", works[0].computation.flush.seconds)  # type: ignore[union-attr]

    def leading(self, at: int, limit: int = 0) -> tuple[list[Work], bool]:
        """The messages from this index on that one call gets, and whether it can't get more. `limit`: their largest number, if not as declared.
        Empty if the first is for no batch computation."""
        items = self.step.items
        first = items[at]
        if not isinstance(first, Work) or first.computation.flush is None:
            return [], True
        limit = limit or first.computation.flush.every
        works = [first]
        for one in items[at + 1 : at + limit]:
            if not isinstance(one, Work) or one.computation is not first.computation:
                return works, True
            works.append(one)
        return works, len(works) >= limit

    def call(self, works: Sequence[Work]) -> Calls[bool]:
        """Call a batch computation. It succeeds or fails as a whole. Returns False to end the step before its messages."""
        step, first, clock = self.step, works[0], self.step.rules.clock
        began = clock()
        try:
            unreadable = step.unreadable(first)
            if unreadable is not None:
                return self.wait_for_state(works, unreadable)
            self.called = works
            returned = yield from self.returned(works)
            if step.outbox.sent:
                step.replay.share += step.outbox.share_of(first)
            self.answer(works, returned)
            step.replay.checkpoint(first, len(works))
            step.caller.waited = False
        except GeneratorExit:  # the step is abandoned
            raise
        except BaseException as error:  # anything that a user's function raises is a failure of its messages
            self.called = ()
            return (yield from step.failures.fail(works, error, self.halving))
        self.called = ()
        each = (clock() - began) / len(works)
        step.out.done.extend(works)
        step.out.began.extend([began + each * number for number in range(len(works))])
        step.out.together.append(first.computation)
        return True

    def returned(self, works: Sequence[Work]) -> Calls[Any]:
        """What the computation returns."""
        caller, first = self.step.caller, works[0]
        computation = first.computation
        arguments = caller.arguments(computation, first, [work.message for work in works], self.step.boxes.attempt)
        if computation.takes_context:
            arguments[-1] = structs.replace(arguments[-1], other_ids=tuple(work.envelope.headers.id for work in works[1:]))
        if caller.is_inline(computation):
            return computation.function(*arguments)
        return (yield Call(computation, first, arguments, caller.waited))

    def answer(self, works: Sequence[Work], returned: Any) -> None:
        """Give each message that requests its result its part of what the computation returned. Raises `ReplyError`."""
        if not any(type(work) is ReplyRequest for work in works):
            return
        values = [None] * len(works) if returned is None else returned
        if not isinstance(values, list | tuple) or len(values) != len(works):
            raise ReplyError(
                f"computation {works[0].computation.name!r} returned {type(returned).__name__} for {len(works)} messages, and some of them request their "
                "results. Return None, or a list with one result for each message, in their order"
            )
        for work, value in zip(works, values, strict=True):
            if type(work) is ReplyRequest:
                self.step.answer(work, value)

    def wait_for_state(self, works: Sequence[Work], error: str) -> bool:
        """Let messages wait whose key's state can't be read. Returns False to end the step before them."""
        out, boxes = self.step.out, self.step.boxes
        for work in works:
            if boxes.mailbox_of is None and work.key in out.waiting:
                out.mailed.setdefault(work.key, []).append(work.raw)  # not limited: the messages behind them were not met yet
            elif not boxes.wait_for_state(work, error):
                return False
        return True

    def halve_hanging(self, item: Work, error: str) -> bool:
        """The call that began with this message hung. Nobody knows over which of its messages, so the next call gets half of them. Returns False to
        end the step before the message."""
        step, computation = self.step, item.computation
        assert computation.flush is not None
        failure = failure_of(item, TimeLimitExceeded(error), step.boxes.attempt, computation)
        step.out.failures.append(replace(failure, is_halved=True))
        return step.boxes.wait_for_turn([item], "gather", 0.0, self.halving.halved(self.halving.size or computation.flush.every))

    def is_alone(self, item: Work) -> bool:
        """Whether the message's next call gets no others."""
        return item.computation.flush is None or (self.halving.size or item.computation.flush.every) == 1
