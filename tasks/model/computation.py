"""A declared computation: its function, state class, key extractor and failure policy, and in a pipeline its following stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import msgspec

from celery_partitions.model.errors import KeyExtractionError, describe
from celery_partitions.model.executors import Executor
from celery_partitions.model.flushing import Flush
from celery_partitions.model.keys import SHORT_KEY, normalize_key
from celery_partitions.model.message_codec import MessageCodec
from celery_partitions.model.messages import sent_at_of
from celery_partitions.model.names_given import check_name
from celery_partitions.model.outbox import sent_now
from celery_partitions.model.policy import Exhausted, Holds, RetryPolicy
from celery_partitions.model.rate_limit import RateLimit
from celery_partitions.model.sinks import Sink
from celery_partitions.model.state import StateClass

if TYPE_CHECKING:
    from celery_partitions.model.timers import Timers

#: The name of the timer of `ttl=`, as in its task.
EXPIRY_TASK = "expiry"


class Context(msgspec.Struct, frozen=True):
    """Facts about the message that a computation is processing. Passed if the function has one more parameter."""

    key: str
    message_id: str
    partition: int
    #: Seconds since the epoch by the producer's clock; None if the producer did not send it.
    sent_at: float | None
    #: 1 for the first try, 2 for the first retry, and so on.
    attempt: int
    #: What the app's `lifespan` yielded in this worker process, such as a client with its connections. Empty without a lifespan.
    resources: Mapping[str, Any] = {}
    #: For `timers`: those of each key.
    opens_timers: Mapping[str, Timers] | None = None
    #: For `message_ids`.
    other_ids: tuple[str, ...] = ()

    @property
    def message_ids(self) -> tuple[str, ...]:
        """The ids of all messages of this call, in their order: several for a batch computation, otherwise one. `message_id` is the first."""
        return (self.message_id, *self.other_ids)

    def send_now(self) -> AbstractContextManager[None]:
        """In this `with` block, what the computation sends (`delay`, `apply_async`, …) goes out at once, for example to report progress.

        Such a message is sent at least once: it is not taken back if the computation fails, and sent again if it runs again. Outside such
        a block, everything is sent exactly once, with the computation's other effects.
        """
        return sent_now()

    @property
    def timers(self) -> Timers:
        """The timers of the key. Raises `RuntimeError` in a computation without a state, and outside workers and the test kit."""
        if self.opens_timers is None:
            raise RuntimeError("there are no timers here: they belong to the key of a state_computation that a worker or the test kit's harness runs")
        return self.opens_timers[self.key]

    def __repr__(self) -> str:
        return f"Context(key={self.key!r}, message_id={self.message_id!r}, partition={self.partition}, sent_at={self.sent_at}, attempt={self.attempt})"


#: Reads a field of `ContextOf` that its property hides.
_raw_of = cast(Any, Context.__dict__["sent_at"]).__get__


class ContextOf(Context, frozen=True):
    """The context of a message. `sent_at` is given as the raw message, and read only when a computation asks for it: that would take most of
    the time of making a context."""

    @property  # type: ignore[misc]
    def sent_at(self) -> float | None:
        raw = _raw_of(self)
        return sent_at_of(raw) if type(raw) is bytes else raw


class Windows(Protocol):
    """What the step needs from a stage that collects messages in windows. Times are seconds since the epoch."""

    def take(
        self, state: Any, value: Any, key: str, event_time: float | None, now: float, on_drop: Callable[[], None] = lambda: None
    ) -> list[Any]:
        """Put a value into its windows. Returns the outputs of the windows that close. Calls `on_drop` if it came too late for any."""
        ...

    def fire(self, state: Any, key: str, now: float) -> list[Any]:
        """Called when a timer is due. Returns the outputs of the windows that close."""
        ...

    def due(self, state: Any) -> float | None:
        """When `fire` must be called next, by the server's clock; None if never."""
        ...


Role = Literal["task", "source", "stage", "timer"]


@dataclass(slots=True, eq=False)
class StageNode:
    """A stage of a pipeline: a computation, and the nodes that receive what it returns."""

    computation: Computation
    then: list[Node] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class HopNode:
    """An edge to a stage under another key: a message on the queue of that key's partition."""

    #: Returns the new key.
    extract: Callable[[Any], Any]
    stage: Computation


@dataclass(slots=True, eq=False)
class SinkNode:
    """The end of a pipeline. `extract`: returns the key that the sink gets; None: the stage's key."""

    sink: Sink
    extract: Callable[[Any], Any] | None = None


Node = StageNode | HopNode | SinkNode


@dataclass(frozen=True, slots=True, eq=False)
class Computation:
    """One declared computation, built by `declare`. It is the same in every process that imports your module."""

    name: str
    function: Callable[..., Any]
    extract: Callable[[Any], Any]
    codec: MessageCodec
    #: None for a computation without state.
    state: StateClass[Any] | None
    takes_context: bool
    #: Whether a call is exactly `function(message, state)`, or that with a context. Computed here for the step's inner loop.
    plain_call: bool
    #: None: the settings' policy. A word: the settings' retries, and this when none are left.
    on_error: RetryPolicy | Exhausted | None = None
    #: What waits while a failed message waits: all of its key, or only its own computation's messages for that key.
    holds: Holds = "key"
    #: The longest that one call may take, in seconds; None: no limit.
    time_limit_seconds: float | None = None
    #: A message whose id was seen within this many seconds has no effect; None: ids are not checked.
    deduplicate_seconds: float | None = None
    #: Whether the returned value is stored as the message's Celery result, unless the message says otherwise.
    replies: bool = False
    #: `task`: producers send to it. `source`: producers send to it, and its pipeline's stages receive the message. `stage`: it receives
    #: its messages from another stage. `timer`: it handles a timer of another computation, on the states of that.
    role: Role = "task"
    #: The computation whose timer it handles, and the timer's name.
    owner: Computation | None = None
    timer: str = ""
    #: The handlers of its timers, by the timer's name.
    handlers: dict[str, Computation] = field(default_factory=dict)
    #: How long a key's record is kept after its last use, in ms. None: forever.
    ttl_ms: int | None = None
    #: It returns a list, whose elements go to the next stage one by one.
    multi: bool = False
    #: The windows that process its messages in the place of `function`. Its state is the windows' content.
    windows: Windows | None = None
    #: Returns the event time of a source's message, in seconds since the epoch; None: the time of arrival.
    event_time: Callable[[Any], Any] | None = None
    #: How far, in seconds, an event time may be ahead of the clock; None: any time.
    max_event_time_ahead_seconds: float | None = None
    #: Whether any source of its pipeline has an event time.
    has_event_time: bool = False
    #: Its messages may hold any Python value (`celery_partitions.model.values`), not only JSON.
    takes_values: bool = False
    #: Computations with the same scope are rolled back together when a message of a key fails, because they share states.
    scope: str = ""
    #: Where its calls run. Those of `async` and `threads` may be in flight for many keys at once.
    executor: Executor = "loop"
    #: The maximum number of calls in flight in one worker process. None: PARTITIONS_CONCURRENCY.
    concurrency: int | None = None
    #: A key's next call starts only after the commit of the one before.
    strict: bool = False
    #: It is a batch computation: it receives a list of a key's messages. None: one message.
    flush: Flush | None = None
    #: How often its calls may start. An operator may change it.
    rate_limit: RateLimit | None = None
    #: Whether a message may name follow-ups (links, the rest of a chain, a chord). If not, such a message becomes a dead letter.
    follow_ups: bool = True
    #: What it was called before. Messages, timers and states with these names are its own.
    formerly: tuple[str, ...] = ()
    #: Modules whose classes may appear in values between stages.
    modules: tuple[str, ...] = ()
    #: The nodes that receive a message of a source or a stage, in this order. Filled when the pipeline is built.
    roots: list[Node] = field(default_factory=list)
    #: Every computation whose state a message of this one may change.
    stateful: list[Computation] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_name("the source" if self.role == "source" else "the computation", self.name)
        if self.state is not None and self.role == "task":
            self.stateful.append(self)
        if self.owner is not None and self.owner.role == "task":
            self.stateful.append(self.owner)

    @property
    def former_names(self) -> tuple[str, ...]:
        """The names that its messages may still have."""
        return self.formerly if self.owner is None else tuple(timer_task(name, self.timer) for name in self.owner.formerly)

    def before(self, former: str) -> Computation:
        """The computation under a former name, as its states are stored until a worker takes them over."""
        return replace(self, name=former, formerly=(), stateful=[], roots=[])

    @property
    def line(self) -> str:
        """The name of its own line (`own_lines`). A timer's messages wait with those of its computation."""
        return self.name if self.owner is None else self.owner.name

    @property
    def lines(self) -> tuple[str, ...]:
        """The names of the own lines in which its messages may wait already."""
        owner = self if self.owner is None else self.owner
        return (owner.name, *owner.formerly)

    @property
    def waiting(self) -> Computation | None:
        """The first of its stages (or itself) whose calls do not run in the loop's thread. None for plain computations."""
        if self.executor != "loop":
            return self
        return next((stage for stage in _stages(self.roots) if stage.executor != "loop"), None) if self.roots else None

    @property
    def has_rate_limit(self) -> bool:
        """Whether it, or one of its stages, has a rate limit."""
        return self.rate_limit is not None or any(stage.rate_limit is not None for stage in _stages(self.roots))

    @property
    def limited(self) -> Computation | None:
        """The first of its stages that has a time limit. A message that hung is attributed to this stage."""
        return next((stage for stage in _stages(self.roots) if stage.time_limit_seconds is not None), None)

    def key_of(self, message: Any) -> str:
        """The message's normalized key. Raises `KeyExtractionError` if the extractor raises, or returns something that is not a key."""
        return extracted_key(self.extract, message)


def _stages(nodes: list[Node]) -> Iterator[Computation]:
    """The stages that run under the same key, in the order of their calls."""
    for node in nodes:
        if isinstance(node, StageNode):
            yield node.computation
            yield from _stages(node.then)


def extracted_key(extract: Callable[[Any], Any], message: Any) -> str:
    """A message's normalized key. Raises `KeyExtractionError` if the extractor raises, or returns something that is not a key."""
    try:
        key = extract(message)
    except (Exception, SystemExit) as error:
        raise KeyExtractionError(f"the key extractor raised {describe(error)}") from error
    return key if type(key) is str and len(key) < SHORT_KEY else normalize_key(key)


def timer_task(computation: str, timer: str) -> str:
    """The task name of a timer's messages. `timer`: "" for the one of `ttl=`."""
    return f"{computation} @ {timer or EXPIRY_TASK}"


