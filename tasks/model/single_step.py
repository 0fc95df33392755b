"""A step of one message of a computation, made shorter where that makes no difference.

Most calls that wait are for one message, and return. What follows is then known without a `StepMachine`, which takes longer than the rest of
such a call. Everything else goes through the machine: failures, replies, pipelines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_partitions.model.caller import Call
from celery_partitions.model.computation import ContextOf
from celery_partitions.model.items import Item, Work
from celery_partitions.model.outbox import Outbox, no_sender
from celery_partitions.model.outcome import Outcome, Slot, States, Unreadable
from celery_partitions.model.step_rules import StepRules
from celery_partitions.model.timers import OpenTimers, touch

#: For computations without a state.
_NO_STATES: Mapping[str, Slot | Unreadable] = {}


class SingleStep:
    """Make its `call` with its `outbox` active. If it returned, ask for the outcome."""

    __slots__ = ("_began", "_item", "_rules", "_states", "call", "outbox")

    def __init__(self, call: Call, states: States, rules: StepRules) -> None:
        self.call, self._states, self._rules = call, states, rules
        self._item: Work | None = call.item
        self.outbox = Outbox(rules.app, self.sender)
        self._began = rules.clock()

    def timers(self) -> OpenTimers:
        """`Context.opens_timers`."""
        computation = self.call.computation
        return OpenTimers(computation, self._states[computation.name], self.outbox, self._rules.now)

    def sender(self) -> Work | None:
        """The message, until its call has ended."""
        return self._item

    def end(self) -> None:
        """The call has ended. From now on, what goes on in its context sends at once."""
        self._item = None
        self.outbox.sender = no_sender  # else a cycle of references would keep the message until a garbage collection, which is rare

    def outcome(self) -> Outcome | None:
        """The outcome of a call that returned. None: the state can't be pickled, and the machine must decide."""
        computation, item = self.call.computation, self.call.item
        out = Outcome(taken=1, done=[item], began=[self._began], is_short=True)
        if computation.state is not None:
            slot, key = self._states[computation.name][item.key], item.key
            assert type(slot) is Slot
            alarm = None if computation.ttl_ms is None else touch(computation, key, slot, self._rules.now)
            if alarm is not None:
                out.emitted.append(alarm)
            try:
                after = self._rules.pickling.dump(computation, key, slot.state, slot.timers)
            except Exception:
                return None
            if after != slot.stored:
                out.states[computation.name] = {key: after}
                if computation.state.is_versioned:
                    out.versions[computation.name] = computation.state.version
        if self.outbox.sent:
            out.emitted.extend(self.outbox.sent[id(item)])
            out.outputs = [self.outbox.sent]
        out.ended = self._rules.clock()
        return out


def single_step(item: Item, states: States, rules: StepRules, attempt: int) -> SingleStep | None:
    """The step of a message, if it is that simple. None: use a machine."""
    if type(item) is not Work:
        return None
    computation = item.computation
    if computation.role != "task" or computation.flush is not None:
        return None
    arguments: list[Any] = [item.message]
    if computation.state is not None:
        slot = states.get(computation.name, _NO_STATES).get(item.key)
        if type(slot) is not Slot:
            return None
        arguments.append(slot.state)
    single = SingleStep(Call(computation, item, arguments), states, rules)
    if computation.takes_context:
        opens_timers = None if computation.state is None else single.timers()
        arguments.append(ContextOf(item.key, item.envelope.headers.id, rules.partition, item.raw, attempt, rules.resources, opens_timers))  # type: ignore[arg-type]
    return single
