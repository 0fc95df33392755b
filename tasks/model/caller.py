"""Calls what a message is for: one computation, or the stages of a pipeline that run under the message's key.

Stages run depth-first: an output goes through all following stages before the next output of the same stage. An output is encoded, or
given to the next stage, immediately. If the computation changes the object later, the output does not change.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar, cast

from celery_partitions.model.computation import (
    Computation,
    Context,
    ContextOf,
    HopNode,
    Node,
    SinkNode,
    StageNode,
)
from celery_partitions.model.effects import Emission, Timer
from celery_partitions.model.items import Work
from celery_partitions.model.message_writer import TIMER_BODY
from celery_partitions.model.messages import details_of
from celery_partitions.model.outbox import Outbox
from celery_partitions.model.outcome import Slot, States
from celery_partitions.model.outputs import Calling, Outputs, deliveries, seconds_given
from celery_partitions.model.restricted_pickle import copied
from celery_partitions.model.sinks import QueueSink
from celery_partitions.model.timers import EXPIRY, NO_TIMERS, OpenTimers, fire
from celery_partitions.model.values import TIMER

T = TypeVar("T")


class Call(NamedTuple):
    """A call that a step requests: this computation, with these arguments, for this message."""

    computation: Computation
    item: Work
    arguments: list[Any]
    #: The message comes at a time that its rate limit has promised.
    waited: bool = False


#: A generator that yields calls, is sent each result (or is thrown the exception), and returns a T.
Calls = Generator[Call, Any, T]


class Caller:
    """Calls the computations of one step. `touched`: the states that they received."""

    def __init__(self, states: States, calling: Calling, outbox: Outbox) -> None:
        self.states, self.calling, self.outbox = states, calling, outbox
        self.touched: dict[Computation, dict[str, Slot]] = {}
        #: The computation called last, to which a failure belongs.
        self.at: Computation | None = None
        #: What the computation of the last message returned. None for a pipeline.
        self.returned: Any = None
        #: How many values of the last message came too late for their windows and were dropped.
        self.dropped = 0
        #: `Call.waited` of the next calls.
        self.waited = False
        self._inline = calling.inline
        #: Computation and key of each record whose expiry was due in this step.
        self.checked: set[tuple[str, str]] = set()
        #: How many values each stage got that ran in the step of the message's own computation.
        self.fused: dict[str, int] = {}
        self._only_stages: dict[Computation, OnlyStage | None] = {}
        #: Only for pipelines.
        self.outputs = cast(Outputs, None) if calling.writer is None else Outputs(calling, calling.writer)
        #: `Context.opens_timers` of each computation.
        self._timers: dict[Computation, OpenTimers] = {}

    def call(self, item: Work, attempt: int) -> Calls[list[Emission] | None]:
        """Call what the message is for. Returns its outputs; None if it is not for a pipeline. Raises what user code raises."""
        computation = self.at = item.computation
        self.dropped = 0
        if computation.role == "task":
            arguments = self.arguments(computation, item, item.message, attempt)
            self.returned = computation.function(*arguments) if self.is_inline(computation) else (yield Call(computation, item, arguments, self.waited))
            return None
        self.returned = None
        if computation.owner is not None:
            return (yield from self.fire(item, computation.owner, attempt))
        run = _Run(self, item, attempt)
        if item.message is TIMER:
            stage = cast(StageNode, computation.roots[0])
            yield from run.give_each(stage.then, run.gather(stage.computation, None, fires=True), stage.computation)
        elif len(computation.roots) == 1 and isinstance(root := computation.roots[0], StageNode):
            yield from run.give_to(root, item.message)  # without a copy: nobody else has the message
        else:
            yield from run.give(computation.roots, item.message, computation)
        return run.made

    def fire(self, item: Work, owner: Computation, attempt: int) -> Calls[list[Emission] | None]:
        """Call the handler of a timer, if the key's record says that the timer is due."""
        handler, key, is_expiry = item.computation, item.key, item.computation.timer == EXPIRY
        slot = cast(Slot, self.states[owner.name][key])
        is_set = handler.timer in (slot.timers or NO_TIMERS)
        if is_expiry and key in self.touched.get(owner, ()):
            return None  # a message before it used the key, which moves its expiry
        if not is_set and (not is_expiry or slot.stored is None):
            return None  # cancelled; or the record is gone, and must not be written again
        self.slot(owner, key)
        if is_expiry and not is_set:
            return None  # the record is older than `ttl=`: its time begins with this commit
        if is_expiry:
            self.checked.add((owner.name, key))
        timer = fire(handler, key, slot, self.outbox, self.calling.now)
        if timer is None:
            return None
        arguments = [slot.state] if is_expiry else [timer, slot.state]
        if handler.takes_context:
            arguments.append(self.context(handler, item, attempt))
        returned = handler.function(*arguments) if self.is_inline(handler) else (yield Call(handler, item, arguments))
        if is_expiry:
            assert owner.state is not None
            slot.state, slot.timers = owner.state.new(), None
        if owner.role == "task":
            return None
        run, stage = _Run(self, item, attempt), cast(StageNode, handler.roots[0])
        if owner.multi:
            yield from run.give_each(stage.then, returned, owner)
        elif returned is not None:
            yield from run.give(stage.then, returned, owner)
        return run.made

    def is_direct(self, computation: Computation) -> bool:
        """Whether to call a computation with `call_task`."""
        return computation.role == "task" and self.is_inline(computation)

    def call_task(self, item: Work, attempt: int) -> None:
        """As `call` does, for `is_direct`, without its generators."""
        computation, self.dropped = item.computation, 0
        self.returned = computation.function(*self.arguments(computation, item, item.message, attempt))

    def only_stage(self, computation: Computation) -> OnlyStage | None:
        """The stage that the messages of a computation run, if they run nothing else, and what it returns goes to one hop or sink, or nowhere. Most
        pipelines consist of such stages. None: use `call`."""
        if computation not in self._only_stages:
            self._only_stages[computation] = self._only_stage(computation)
        return self._only_stages[computation]

    def _only_stage(self, computation: Computation) -> OnlyStage | None:
        if computation.role in ("task", "timer") or len(computation.roots) != 1 or not isinstance(root := computation.roots[0], StageNode):
            return None
        stage, then = root.computation, root.then
        if stage.windows is not None or stage.multi or not self.is_inline(stage) or len(then) > 1 or (then and isinstance(then[0], StageNode)):
            return None
        return OnlyStage(self, computation, stage, cast("HopNode | SinkNode | None", then[0] if then else None))

    def is_inline(self, computation: Computation) -> bool:
        """Whether the computation is called directly (it is plain and has no limits), instead of being yielded as a `Call`."""
        return self._inline and computation.time_limit_seconds is None and computation.executor == "loop" and computation.rate_limit is None

    def arguments(self, computation: Computation, item: Work, value: Any, attempt: int) -> list[Any]:
        """The arguments of one computation for a value: the value, the state of the item's key, the context. Notes it as called last."""
        self.at = computation
        arguments = [value]
        if computation.state is not None:
            arguments.append(self.state(computation, item.key))
        if computation.takes_context:
            arguments.append(self.context(computation, item, attempt))
        return arguments

    def context(self, computation: Computation, item: Work, attempt: int) -> Context:
        owner = computation if computation.owner is None else computation.owner
        opens_timers = None if owner.state is None else self.timers(owner)
        return ContextOf(item.key, item.envelope.headers.id, self.calling.partition, item.raw, attempt, self.calling.resources, opens_timers)  # type: ignore[arg-type]

    def timers(self, computation: Computation) -> OpenTimers:
        """`Context.opens_timers`. It keeps those of this step, because most keys of a batch have several messages."""
        opened = self._timers.get(computation)
        if opened is None:
            opened = self._timers[computation] = OpenTimers(computation, self.states[computation.name], self.outbox, self.calling.now)
        return opened

    def state(self, computation: Computation, key: str) -> Any:
        """The key's state object. Marks it as touched."""
        return self.slot(computation, key).state

    def slot(self, computation: Computation, key: str) -> Slot:
        slot: Any = self.states[computation.name][key]  # readable: checked before
        touched = self.touched.get(computation)
        if touched is None:
            touched = self.touched[computation] = {}
        touched[key] = slot
        return cast(Slot, slot)


class OnlyStage:
    """Calls the only stage of a computation's messages (`Caller.only_stage`), without the generators of `Caller.call`, which take as long as a
    small computation."""

    def __init__(self, caller: Caller, computation: Computation, stage: Computation, then: HopNode | SinkNode | None) -> None:
        self.caller, self.outputs, self.computation, self.stage, self.then = caller, caller.outputs, computation, stage, then
        self._is_fused, self._has_event_time = stage is not computation, computation.event_time is not None
        #: The states that it may use, by key. None: it has no state.
        self.slots = None if stage.state is None else caller.states[stage.name]
        self._touched: dict[str, Slot] | None = None
        self._function = stage.function
        self._first_hop = self.outputs.first_hop(computation, then) if isinstance(then, HopNode) else None
        self._deliver = then if isinstance(then, SinkNode) and not isinstance(then.sink, QueueSink) else None

    def call(self, item: Work, attempt: int) -> list[Emission]:
        """Call the stage for a message whose state can be read. Returns its outputs. Raises what user code raises."""
        caller, stage = self.caller, self.stage
        caller.at, caller.returned, caller.dropped = self.computation, None, 0
        made = self.outputs.begin(item) if self._has_event_time else None  # before the stage can change the message
        if self._is_fused:
            caller.fused[stage.name] = caller.fused.get(stage.name, 0) + 1
        caller.at = stage
        if self.slots is None or stage.takes_context:
            returned = stage.function(*caller.arguments(stage, item, item.message, attempt))
        else:
            key = item.key
            slot = cast(Slot, self.slots[key])
            if self._touched is None:
                self._touched = caller.touched.setdefault(stage, {})
            self._touched[key] = slot
            returned = self._function(item.message, slot.state)
        if returned is None or self.then is None:
            return []
        if self._first_hop is not None:
            try:
                hop = self._first_hop(item, returned)
            except (Exception, SystemExit):  # `emit` raises an error that says what is wrong
                hop = None
            if hop is not None:
                return [hop]
        elif self._deliver is not None:
            return deliveries(self._deliver, item, returned, 0)
        if made is None:
            made = self.outputs.begin(item)
        self.outputs.emit(self.then, returned)
        return made


class _Run:
    """Runs one message through its stages."""

    def __init__(self, caller: Caller, item: Work, attempt: int) -> None:
        self.caller, self.calling, self.item, self.attempt = caller, caller.calling, item, attempt
        self.outputs = caller.outputs
        self.made = self.outputs.begin(item)

    def give(self, nodes: list[Node], value: Any, giver: Computation) -> Calls[None]:
        """Give an output of `giver` to everything that follows. What is encoded is encoded first. Each stage but the last gets a copy; the
        last also gets one if `giver` has a state, because the value could be in it."""
        if len(nodes) == 1 and giver.state is None and isinstance(nodes[0], StageNode):
            yield from self.give_to(nodes[0], value)
            return
        stages = []
        for node in nodes:
            if isinstance(node, StageNode):
                stages.append(node)
            else:
                self.caller.at = giver  # a failing key extractor or encoder counts as a failure of the stage that made the output
                self.outputs.emit(node, value)
        for stage in stages:
            is_last_owner = stage is stages[-1] and giver.state is None
            yield from self.give_to(stage, value if is_last_owner or is_unchangeable(value) else copied(value))

    def give_each(self, nodes: list[Node], values: Any, giver: Computation) -> Calls[None]:
        if values is None:
            return
        if type(values) is not list:
            raise TypeError(f"{giver.name!r} must return a list of outputs, or None, not {type(values).__name__}")
        for value in values:
            if value is not None:
                yield from self.give(nodes, value, giver)

    def give_to(self, stage: StageNode, value: Any) -> Calls[None]:
        computation, then, caller = stage.computation, stage.then, self.caller
        if computation is not self.item.computation:
            caller.fused[computation.name] = caller.fused.get(computation.name, 0) + 1
        if computation.windows is not None:
            yield from self.give_each(then, self.gather(computation, value), computation)
            return
        arguments = caller.arguments(computation, self.item, value, self.attempt)
        returned = computation.function(*arguments) if caller.is_inline(computation) else (yield Call(computation, self.item, arguments, caller.waited))
        if computation.multi:
            yield from self.give_each(then, returned, computation)
        elif returned is not None and then:
            if len(then) == 1 and not isinstance(then[0], StageNode):  # as `give` does, without one more generator
                self.outputs.emit(then[0], returned)
            else:
                yield from self.give(then, returned, computation)

    def drop(self) -> None:
        """A value came too late for its windows."""
        self.caller.dropped += 1

    def gather(self, computation: Computation, value: Any, fires: bool = False) -> list[Any]:
        """Run a window stage: add a value, or close the windows whose timer is due. Sets the next timer."""
        windows, key, now = computation.windows, self.item.key, self.calling.now
        assert windows is not None
        self.caller.at = computation
        state = self.caller.state(computation, key)
        if fires:
            # A timer that an earlier one replaced must not set the next one, or their number would grow.
            if state.timer_at is None or state.timer_at == seconds_given(details_of(self.item.raw).timer):
                state.timer_at = None
            outputs = windows.fire(state, key, now)
        else:
            outputs = windows.take(state, value, key, self.outputs.event_time, now, self.drop)
        due = windows.due(state)
        # Set another one if the timer is overdue, because its message may have become a dead letter.
        if due is not None and (state.timer_at is None or due < state.timer_at or state.timer_at < now):
            state.timer_at = due
            message_id = self.outputs.cause.id_of_next_timer() if fires else self.outputs.next_id()
            partition = self.calling.partition
            template = self.outputs.writer.to_stage(computation.name, partition)
            self.made.append(Timer(due, self.outputs.cause.fill(template, message_id, TIMER_BODY, key, timer=due)))
        return outputs


#: Immutable types.
_ATOMS = frozenset((str, int, float, bool, bytes, complex, type(None)))


def is_unchangeable(value: Any) -> bool:
    """Whether the value is known to be immutable. Checks only the most frequent types."""
    kind = type(value)
    return kind in _ATOMS or (kind is tuple and all(type(one) in _ATOMS for one in value))
