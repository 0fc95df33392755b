"""A declared computation: its function, state class, key extractor and failure policy, and in a pipeline its following stages."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from celery_partitions.model.errors import DeclarationError, KeyExtractionError, describe
from celery_partitions.model.executors import Executor, executor_of, is_async
from celery_partitions.model.keys import SHORT_KEY, normalize_key
from celery_partitions.model.messages import MessageCodec, first_annotation, plain_function
from celery_partitions.model.names_given import check_name
from celery_partitions.model.outbox import sent_now
from celery_partitions.model.policy import EXHAUSTED_CHOICES, HOLDS_CHOICES, Exhausted, Holds, RetryPolicy
from celery_partitions.model.rate_limit import RateLimit, rate_limit_of
from celery_partitions.model.sinks import Sink
from celery_partitions.model.state import StateClass

if TYPE_CHECKING:
    from celery_partitions.model.timers import Timers

F = TypeVar("F", bound=Callable[..., Any])

#: The name of the timer of `ttl=`, as in its task.
EXPIRY_TASK = "expiry"

_GENERATORS = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)


@dataclass(frozen=True, slots=True)
class Context:
    """Facts about the message that a computation is processing. Passed if the function has one more parameter."""

    key: str
    message_id: str
    partition: int
    #: Seconds since the epoch by the producer's clock; None if the producer did not send it.
    sent_at: float | None
    #: 1 for the first try, 2 for the first retry, and so on.
    attempt: int
    #: What the app's `lifespan` yielded in this worker process, such as a client with its connections. Empty without a lifespan.
    resources: Mapping[str, Any] = field(default_factory=dict)
    #: For `timers`.
    opens_timers: Callable[[str], Timers] | None = field(default=None, repr=False, compare=False)

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
        return self.opens_timers(self.key)


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
    #: Whether a call is exactly `function(message, state)`. Computed here for the step's inner loop.
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
    #: How often its calls may start. An operator may change it.
    rate_limit: RateLimit | None = None
    #: Whether a message may name follow-ups (links, the rest of a chain, a chord). If not, such a message becomes a dead letter.
    follow_ups: bool = True
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
    def line(self) -> str:
        """The name of its own line (`own_lines`). A timer's messages wait with those of its computation."""
        return self.name if self.owner is None else self.owner.name

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


def key_extractor(function: F) -> F:
    """Declare a function of one message that returns its key: str, bytes, int, bool, UUID, or an Enum of those.

    It runs in the producer and again in the worker, so it must return the same key for the same message. If it raises, a Python
    producer gets the error; a message from any other producer becomes a dead letter. Raises `DeclarationError`.
    """
    _positional(function, "a key extractor", (1,), "(message)")
    if is_async(function):
        raise DeclarationError("a key extractor must be a plain function (def), because producers call it too")
    return function


def declare(
    function: Callable[..., Any],
    *,
    name: str,
    state: type | None,
    key: Callable[[Any], Any] | None,
    multi: bool = False,
    on_error: RetryPolicy | Exhausted | None = None,
    holds: Holds = "key",
    time_limit: timedelta | float | None = None,
    deduplicate: timedelta | float | None = None,
    reply: bool = False,
    executor: Literal["threads"] | None = None,
    concurrency: int | None = None,
    strict: bool = False,
    rate_limit: str | None = None,
    rate_limit_key: Callable[[Any], Any] | None = None,
    burst: int | None = None,
    follow_ups: bool = True,
    ttl: timedelta | float | None = None,
    on_expire: Callable[..., Any] | None = None,
) -> Computation:
    """Check a declaration and make its `Computation`. Raises `DeclarationError` that says what to change.

    Without a `key` it is a stage for pipelines. `multi`: it returns a list of outputs.
    """
    check_is_named(name)
    check_name("the computation", name)
    if key is not None and not callable(key):
        raise DeclarationError(f"computation {name!r}: key= must be a key extractor, a function of one message")
    if state is None:
        parameters = _positional(function, f"computation {name!r}", (1, 2), "(message) or (message, context)")
    else:
        parameters = _positional(
            function, f"state computation {name!r}", (2, 3), "(message, state) or (message, state, context)"
        )
    if any(is_kind(function) for is_kind in _GENERATORS):
        # Calling one would run nothing of its body: messages would be removed, and nothing done.
        raise DeclarationError(f"computation {name!r} is a generator (it has a yield). Return a list from a stage declared with _multi instead")
    if hasattr(function, "cache_info"):
        raise DeclarationError(f"computation {name!r} is cached: an equal message would not be applied again. Remove lru_cache, or cache a function that it calls")
    _compare_annotations(name, function, parameters, state, key)
    where, limit = executor_of(name, function, executor, concurrency, strict), rate_limit_of(name, rate_limit, rate_limit_key, burst)
    if reply and key is None:
        raise DeclarationError(f"computation {name!r}: reply=True needs a key=. Without one it is a stage, and what it returns goes to the next stage")
    _check_holds(name, holds, key, where)
    takes_context = len(parameters) == (2 if state is None else 3)
    ttl_seconds = seconds_or_none(name, "ttl", ttl)
    if on_expire is not None and ttl_seconds is None:
        raise DeclarationError(f"computation {name!r}: on_expire= needs a ttl=, the time after which a key that is not used is forgotten")
    made = Computation(
        name=name,
        function=function,
        extract=key if key is not None else _no_key(name),
        codec=_codec(function, parameters[0], is_stage=key is None),
        state=None if state is None else StateClass(state),
        takes_context=takes_context,
        plain_call=key is not None and state is not None and not takes_context and time_limit is None and where == "loop" and limit is None,
        on_error=_looked_over(name, on_error),
        holds=holds,
        replies=reply,
        time_limit_seconds=seconds_or_none(name, "time_limit", time_limit),
        deduplicate_seconds=seconds_or_none(name, "deduplicate", deduplicate),
        role="task" if key is not None else "stage",
        multi=multi,
        scope=name,
        executor=where,
        concurrency=concurrency,
        strict=strict,
        rate_limit=limit,
        follow_ups=follow_ups,
        ttl_ms=None if ttl_seconds is None else max(1, round(ttl_seconds * 1000)),
    )
    if ttl_seconds is not None:
        expiry_handler(made, on_expire)
    return made


def timer_handler(
    owner: Computation,
    timer: str,
    function: Callable[..., Any],
    *,
    on_error: RetryPolicy | Exhausted | None = None,
    time_limit: timedelta | float | None = None,
    executor: Literal["threads"] | None = None,
    concurrency: int | None = None,
    strict: bool = False,
) -> Computation:
    """Check the handler of a timer and make its computation, which its owner then knows. Raises `DeclarationError`."""
    if not isinstance(timer, str) or not timer.strip() or timer == EXPIRY_TASK:
        raise DeclarationError(f"computation {owner.name!r}: a timer needs a name of its own, not {timer!r:.80}: @….on_timer(name)")
    if owner.state is None:
        raise DeclarationError(f"computation {owner.name!r} has no state, so its keys have no timers. Declare it with state_computation")
    if owner.role != "task" and owner.roots:
        raise DeclarationError(f"computation {owner.name!r}: declare the timer {timer!r} before the pipeline is built")
    name = timer_task(owner.name, timer)
    check_name("the timer", name)
    parameters = _positional(function, f"the handler of timer {timer!r}", (2, 3), "(timer, state) or (timer, state, context)")
    return _handler(owner, timer, function, parameters, len(parameters) == 3, on_error, time_limit, executor, concurrency, strict)


def expiry_handler(owner: Computation, function: Callable[..., Any] | None) -> Computation:
    """The handler of `ttl=`. `function`: `on_expire`. Raises `DeclarationError`."""
    if function is None:
        return _handler(owner, "", _nothing, ["state"], False)
    parameters = _positional(function, f"computation {owner.name!r}: on_expire", (1, 2), "(state) or (state, context)")
    return _handler(owner, "", function, parameters, len(parameters) == 2)


def _nothing(state: Any) -> None:
    """For `ttl=` without `on_expire=`."""


def _handler(
    owner: Computation,
    timer: str,
    function: Callable[..., Any],
    parameters: Sequence[str],
    takes_context: bool,
    on_error: RetryPolicy | Exhausted | None = None,
    time_limit: timedelta | float | None = None,
    executor: Literal["threads"] | None = None,
    concurrency: int | None = None,
    strict: bool = False,
) -> Computation:
    name = timer_task(owner.name, timer)
    where = executor_of(name, function, executor, concurrency, strict)
    owner.handlers[timer] = handler = Computation(
        name=name,
        function=function,
        extract=_no_key(name),
        codec=MessageCodec(inspect.Parameter.empty, parameters[0]),
        state=None,
        takes_context=takes_context,
        plain_call=False,
        on_error=_looked_over(name, on_error) if on_error is not None else owner.on_error,
        holds=owner.holds,
        time_limit_seconds=seconds_or_none(name, "time_limit", time_limit),
        role="timer",
        owner=owner,
        timer=timer,
        takes_values=True,
        multi=owner.multi,
        scope=owner.scope,
        executor=where,
        concurrency=concurrency,
        strict=strict,
    )
    return handler


def timer_task(computation: str, timer: str) -> str:
    """The task name of a timer's messages. `timer`: "" for the one of `ttl=`."""
    return f"{computation} @ {timer or EXPIRY_TASK}"


def _compare_annotations(
    name: str, function: Callable[..., Any], parameters: Sequence[str], state: type | None, key: Callable[[Any], Any] | None
) -> None:
    """Raise `DeclarationError` if the function is annotated for another state, or the key extractor for another message. Only classes are
    compared."""
    if state is not None:
        wanted = _class_annotated(function, parameters[1])
        if wanted is not None and not _fits(state, wanted):
            raise DeclarationError(
                f"state computation {name!r}: state={state.__qualname__}, but {parameters[1]} of {name_of_function(function)} is annotated as "
                f"{wanted.__qualname__}. Make them the same"
            )
    if key is not None:
        message = _class_annotated(function, parameters[0])
        wanted = _class_annotated(key, None)
        if message is not None and wanted is not None and not _fits(message, wanted):
            raise DeclarationError(
                f"computation {name!r}: its messages are {message.__qualname__}, but the key extractor {name_of_function(key)} takes "
                f"{wanted.__qualname__}. Use a key extractor for {message.__qualname__}"
            )


def _class_annotated(function: Callable[..., Any], parameter: str | None) -> type | None:
    """A parameter's annotation, if it is a class. `parameter` None: the first one."""
    try:
        annotation = first_annotation(function, parameter or next(iter(inspect.signature(function).parameters)))
    except Exception:  # it has no signature, or it names what exists for type checkers only
        return None
    plain = typing.get_origin(annotation) or annotation
    return plain if isinstance(plain, type) and plain not in (inspect.Parameter.empty, object, Any) else None


def _fits(given: type, wanted: type) -> bool:
    """Whether an object of one class is one of the other, as far as is known."""
    given = typing.get_origin(given) or given
    try:
        return issubclass(given, wanted) or (wanted in (float, complex) and issubclass(given, int | float))
    except TypeError:  # a protocol, a TypedDict
        return True


def check_is_named(name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise DeclarationError("a computation needs a name: @computation(name=…), the task name that producers send")


def _codec(function: Callable[..., Any], parameter: str, *, is_stage: bool) -> MessageCodec:
    """The codec of the first parameter. A stage can receive any Python value, so its annotation need not have a form in JSON."""
    annotation = first_annotation(function, parameter)
    try:
        codec = MessageCodec(annotation, parameter)
    except DeclarationError:
        if not is_stage:
            raise
        codec = MessageCodec(inspect.Parameter.empty, parameter)
        codec.annotation = annotation
    shown = f"{annotation.__name__}(…)" if isinstance(annotation, type) and annotation is not inspect.Parameter.empty else parameter
    codec.example = f"{name_of_function(function)}.delay({shown})"
    return codec


def _no_key(name: str) -> Callable[[Any], Any]:
    """The key extractor of a computation that has none."""

    def no_key(message: Any) -> Any:
        raise KeyExtractionError(
            f"{name!r} is a stage of a pipeline, because it has no key=. Send to the pipeline's source, or declare it with key=…"
        )

    return no_key


def _looked_over(name: str, on_error: RetryPolicy | Exhausted | None) -> RetryPolicy | Exhausted | None:
    if on_error is None or isinstance(on_error, RetryPolicy) or on_error in EXHAUSTED_CHOICES:
        return on_error
    raise DeclarationError(f"computation {name!r}: on_error must be a RetryPolicy or one of {', '.join(EXHAUSTED_CHOICES)}")


def _check_holds(name: str, holds: Holds, key: object, executor: Executor) -> None:
    if holds not in HOLDS_CHOICES:
        raise DeclarationError(f"computation {name!r}: holds must be one of {', '.join(HOLDS_CHOICES)}, not {holds!r:.80}")
    if holds == "computation" and key is None:
        raise DeclarationError(f'computation {name!r}: holds="computation" needs a key=. In a pipeline, a failed message always holds its whole key')
    if holds == "computation" and executor != "loop":
        raise DeclarationError(
            f'computation {name!r}: holds="computation" is for plain functions. The calls of an async def or a thread always hold their whole key'
        )


def name_of_function(function: Callable[..., Any]) -> str:
    """The name of a function, or of a callable object's class."""
    named = function if hasattr(function, "__name__") else plain_function(function)
    return str(type(function).__name__ if named.__name__ == "__call__" else named.__name__)


def seconds_or_none(name: str, parameter: str, value: timedelta | float | None) -> float | None:
    """A parameter in seconds, given as a timedelta or a number. Raises `DeclarationError` unless it is above zero."""
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise DeclarationError(f"computation {name!r}: {parameter} must be a timedelta or a number of seconds, above zero")
    return float(seconds)


def _positional(function: Callable[..., Any], what: str, counts: tuple[int, ...], form: str) -> list[str]:
    """The names of a function's positional parameters. Raises `DeclarationError` unless their number is one of `counts`.

    Parameters with a default value may come on top: they keep it, except `context`.
    """
    if not callable(function):
        raise DeclarationError(f"{what}: expected a function, got {function!r}")
    try:
        by_name = inspect.signature(function).parameters
    except ValueError as error:
        raise DeclarationError(f"{what}: {error}") from error
    parameters = by_name.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if names[:1] == ["self"] and len(names) > 1:
        raise DeclarationError(f"{what} is a method, and is called without a `self`. Declare a function, or put @staticmethod below the decorator")
    needed = [name for name in names if by_name[name].default is inspect.Parameter.empty or name == "context"]
    if len(needed) in counts or len(names) not in counts:
        names = needed
    needed_by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(names) not in counts or needed_by_name:
        raise DeclarationError(f"{what} must take {form}; {getattr(function, '__qualname__', function)} takes {names}")
    return names
