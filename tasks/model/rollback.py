"""Undoes a failed try: restores the key's states from bytes, and applies the batch's earlier successful messages again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import Any, cast

from celery_partitions.model.caller import Caller, Calls
from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import Delivery, Emission
from celery_partitions.model.errors import MessageError, describe, frames_of, trace_of, without_frames
from celery_partitions.model.halving import NOT_HALVED, Halving
from celery_partitions.model.items import ReplyRequest, Work, decoded
from celery_partitions.model.outbox import MAX_OUTPUT_BYTES, MAX_OUTPUTS, SHARED_OUTPUT_BYTES, SHARED_OUTPUTS, Outbox
from celery_partitions.model.outcome import Failure, Pickling, Slot, States, Unreadable
from celery_partitions.model.thread_errors import advice


class Replay:
    """The rollback of one step. Each call of a computation goes through it, so that it knows what to restore.

    `done`: the step's successful messages, in order. `answer`: keeps the result for a message that requests it. `outbox`: what computations
    send.
    """

    def __init__(
        self,
        caller: Caller,
        states: States,
        pickling: Pickling,
        done: list[Work],
        answer: Callable[[ReplyRequest, Any], None],
        outbox: Outbox,
    ) -> None:
        self.answer, self.outbox = answer, outbox
        self.caller, self.states, self.pickling, self.done = caller, states, pickling, done
        #: The outputs of each message in `done`, by the `id()` of its item.
        self.emitted: dict[int, list[Emission]] = {}
        #: How many values of a message in `done` came too late for their windows, by the `id()` of its item. Only those with some.
        self.dropped: dict[int, int] = {}
        #: The outputs so far, as a share of the limits for one commit; 1 means that a limit is reached.
        self.share = 0.0
        #: The earlier message that is applied again.
        self.again: Work | None = None
        #: The item that `again` is a fresh copy of.
        self.original: Work | None = None
        #: Where a replay begins, by scope and key: the states' bytes, and how many messages of `done` they include.
        self.checkpoints: dict[tuple[str, str], tuple[dict[Computation, bytes], int]] = {}

    def call(self, item: Work, stands_for: Work, attempt: int) -> Calls[None]:
        """Call what the message is for. Keeps the outputs for the item `stands_for` (in a replay, the original item)."""
        self.keep(stands_for, (yield from self.caller.call(item, attempt)))

    def keep(self, stands_for: Work, emitted: list[Emission] | None) -> None:
        """Keep the outputs of a call. Raises `MessageError` if they are too many or too large for one commit."""
        if emitted:
            count, size = len(emitted), 0
            for one in emitted:  # mostly one
                size += len(one.payload) if type(one) is Delivery else len(one.raw)  # type: ignore[union-attr]
            if count > MAX_OUTPUTS or size > MAX_OUTPUT_BYTES:
                raise MessageError(
                    f"one message has {count} outputs with {size} bytes; the limit is {MAX_OUTPUTS} outputs with {MAX_OUTPUT_BYTES} bytes, "
                    "because they are written in one commit"
                )
            of_count, of_size = count / SHARED_OUTPUTS, size / SHARED_OUTPUT_BYTES
            self.share += of_count if of_count > of_size else of_size
        if self.outbox.sent:
            self.share += self.outbox.share_of(stands_for)
        if emitted is not None:
            self.emitted[id(stands_for)] = emitted
            if self.caller.dropped:
                self.dropped[id(stands_for)] = self.caller.dropped
        if type(stands_for) is ReplyRequest:
            self.answer(stands_for, self.caller.returned)

    def outputs(self) -> list[Emission]:
        """The outputs of the messages in `done`, in order."""
        sent = self.outbox.sent
        if not self.emitted and not sent:
            return []
        if not sent:
            emitted = self.emitted
            if list(map(id, self.done)) == list(emitted):  # most often: nothing has failed
                return list(chain.from_iterable(emitted.values()))
            return [one for work in self.done for one in emitted.get(id(work), ())]
        return [one for work in self.done for outputs in (self.emitted, sent) for one in outputs.get(id(work), ())]

    def late(self) -> int:
        """How many values of the messages in `done` came too late for their windows."""
        return sum(self.dropped.get(id(work), 0) for work in self.done) if self.dropped else 0

    def checkpoint(self, item: Work, count: int = 1) -> None:
        """Save the states after an item that is about to join `done`, or several, so that a replay need not apply it again. Raises if the states
        can't be pickled and read back."""
        self.checkpoints[item.computation.scope, item.key] = self.readable(item), len(self.done) + count

    def move_checkpoints(self, before: Sequence[Work]) -> None:
        """Messages were taken out of `done`, which was `before`: none of those that a checkpoint includes, unless their state can't be read."""
        kept = set(map(id, self.done))
        places = [0, *accumulate(id(work) in kept for work in before)]
        self.checkpoints = {place: (saved, places[included]) for place, (saved, included) in self.checkpoints.items()}

    def run(self, item: Work) -> Calls[Failure | None]:
        """Restore the states of the item's key to what this step's successful messages made of them, from the last known bytes.

        Returns the failure if an earlier successful message raises now; the states are then as before that message. Raises if a state's
        stored bytes can't be read back.
        """
        scope, key = item.computation.scope, item.key
        slots = self.slots_of(scope, key)
        if not slots:
            return None
        saved, included = self.checkpoints.get((scope, key), ({}, 0))
        self.restore(key, slots, saved)
        for index in range(included, len(self.done)):
            earlier = self.done[index]
            if earlier.key != key or earlier.computation.scope != scope or not earlier.computation.stateful:
                continue
            self.caller.at = earlier.computation
            try:
                fresh = decoded(earlier.computation, earlier.envelope, self.pickling.load_value)
                self.outbox.drop(earlier)
                self.original = earlier
                self.again = again = Work(earlier.raw, earlier.computation, key, fresh, earlier.envelope)
                yield from self.call(again, earlier, 1)
                saved = self.readable(again)
            except GeneratorExit:  # the step is abandoned
                raise
            except BaseException as error:
                slots.update(self.slots_of(scope, key))
                self.restore(key, slots, saved)
                return failure_of(earlier, error, 1, self.caller.at or earlier.computation)
            finally:
                self.again = self.original = None
            self.checkpoints[scope, key] = saved, index + 1
        return None

    def slots_of(self, scope: str, key: str) -> dict[Computation, Slot]:
        """The key's states in a scope that this step has touched."""
        return {stage: slots[key] for stage, slots in self.caller.touched.items() if stage.scope == scope and key in slots}

    def restore(self, key: str, slots: dict[Computation, Slot], saved: dict[Computation, bytes]) -> None:
        """Create the state objects again from the bytes in `saved`, otherwise from those in Redis. The latter count as untouched."""
        for stage, slot in slots.items():
            assert stage.state is not None
            stored = saved.get(stage, slot.stored)
            try:
                slot.state = stage.state.new() if stored is None else self.pickling.load(stage, key, stored)
                slot.timers = None if stored is None else self.pickling.timers(stored)
            except Exception as error:
                cast(dict[str, Any], self.states[stage.name])[key] = Unreadable(describe(error))
                raise
            if stage in saved:
                self.caller.touched[stage][key] = slot
            else:
                self.caller.touched[stage].pop(key, None)

    def readable(self, item: Work) -> dict[Computation, bytes]:
        """The bytes of the key's touched states. Also reads them back, because some objects can be pickled but not unpickled."""
        pickling, made = self.pickling, {}
        for stage, slot in self.slots_of(item.computation.scope, item.key).items():
            self.caller.at = stage  # to which a failure belongs
            made[stage] = pickling.dump(stage, item.key, slot.state, slot.timers)
            pickling.load(stage, item.key, made[stage])
        return made


def failure_of(
    item: Work, error: BaseException, attempt: int, at: Computation, others: Sequence[Work] = (), halving: Halving = NOT_HALVED
) -> Failure:
    """The failure of an attempt that raised in the computation `at`. `others`: that a batch computation got with the item. `halving`: how they are
    retried."""
    frames = frames_of(error)
    return Failure(item, describe(error) + advice(error), trace_of(error), attempt, at.name, without_frames(error), frames, tuple(others), halving)
