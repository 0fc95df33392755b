"""A computation as declared: its function, its state class, its key extractor, what follows a failure, and, in a pipeline, the
stages that a message of it runs through."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeVar

from celery_partitions.model.errors import DeclarationError, KeyExtractionError, describe
from celery_partitions.model.keys import SHORT_KEY, normalize_key
from celery_partitions.model.messages import MessageCodec, first_annotation
from celery_partitions.model.names_given import check_name
from celery_partitions.model.policy import EXHAUSTED_CHOICES, Exhausted, RetryPolicy
from celery_partitions.model.sinks import Sink
from celery_partitions.model.state import StateClass

F = TypeVar("F", bound=Callable[..., Any])

_NOT_PLAIN = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


@dataclass(frozen=True, slots=True)
class Context:
    """What a computation may ask about the message it is given (its last parameter, if it has one more)."""

    key: str
    message_id: str
    partition: int
    #: Seconds since the epoch by the producer's clock; None when the producer did not say.
    sent_at: float | None
    #: 1 at first, one more with each retry.
    attempt: int


class Windows(Protocol):
    """What the step asks of a stage that gathers messages in windows. Times are seconds since the epoch."""

    def take(self, state: Any, value: Any, key: str, event_time: float | None, now: float) -> list[Any]:
        """Put a value into its windows; the outputs of those that close."""
        ...

    def fire(self, state: Any, key: str, now: float) -> list[Any]:
        """A timer is due: the outputs of the windows that close."""
        ...

    def due(self, state: Any) -> float | None:
        """When it wants `fire` to be called next, by the server's clock."""
        ...


Role = Literal["task", "source", "stage"]


@dataclass(slots=True, eq=False)
class StageNode:
    """A stage of a pipeline: a computation, and what takes that which it returns."""

    computation: Computation
    then: list[Node] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class HopNode:
    """The way to a stage under another key: a message on that key's partition queue."""

    #: Gives the key.
    extract: Callable[[Any], Any]
    stage: Computation


@dataclass(slots=True, eq=False)
class SinkNode:
    """The end of a pipeline; `extract`: the key that it is told, where that is another than the stage's."""

    sink: Sink
    extract: Callable[[Any], Any] | None = None


Node = StageNode | HopNode | SinkNode


@dataclass(frozen=True, slots=True, eq=False)
class Computation:
    """One declared computation. Built by `declare`; the same in every process that imports the user's module."""

    name: str
    function: Callable[..., Any]
    extract: Callable[[Any], Any]
    codec: MessageCodec
    #: None for a stateless, ordered computation.
    state: StateClass[Any] | None
    takes_context: bool
    #: Whether a call is just `function(message, state)`: known beforehand, for the step's inner loop.
    plain_call: bool
    #: None: as the settings say; a word: the settings' retries, and then that.
    on_error: RetryPolicy | Exhausted | None = None
    #: So many seconds one call may take; None: any.
    time_limit_seconds: float | None = None
    #: A message whose id was seen within so many seconds changes nothing; None: ids are not looked at.
    deduplicate_seconds: float | None = None
    #: Whether a message that does not say is answered: the returned value is stored as its Celery result.
    replies: bool = False
    #: `task`: stands alone, and producers send to it. `source`: producers send to it, and its pipeline's stages take the message.
    #: `stage`: gets its messages from the stage before it.
    role: Role = "task"
    #: It returns a list, whose elements go on one by one.
    multi: bool = False
    #: What it does instead of calling `function`; its state is what the windows hold.
    windows: Windows | None = None
    #: The time of a source's message, seconds since the epoch; None: when it arrives.
    event_time: Callable[[Any], Any] | None = None
    #: Whether some source of its pipeline says the time of its messages.
    has_event_time: bool = False
    #: Called with the messages of a batch that went well, in order, before the batch is committed: what delivers to the outside. What
    #: it raises leaves the batch in its queue, to be tried again; it is no failure of a message.
    flush: Callable[[Sequence[Any]], None] | None = None
    #: Called while its worker has nothing to do: what `flush` needs can be made ready. It raises nothing.
    prepare: Callable[[], None] | None = None
    #: Its messages may hold any Python value (`celery_partitions.model.values`), not only what JSON can.
    takes_values: bool = False
    #: What is applied again together when a message of a key fails: computations of one pipeline share states.
    scope: str = ""
    #: Modules whose classes a value between stages may be made of.
    modules: tuple[str, ...] = ()
    #: What a message of a source or a stage is given to, in this order; filled when the pipeline is built.
    roots: list[Node] = field(default_factory=list)
    #: Every computation whose state a message of this one may change.
    stateful: list[Computation] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_name("the source" if self.role == "source" else "the computation", self.name)
        if self.state is not None and self.role == "task":
            self.stateful.append(self)

    @property
    def limited(self) -> Computation | None:
        """The first of the stages under it that has a time limit: of a message that hung, the one in which it did."""
        return next(_limited(self.roots), None)

    def key_of(self, message: Any) -> str:
        """The message's key, spelled. Raises `KeyExtractionError` when the extractor raises or gives what is no key."""
        return extracted_key(self.extract, message)


def _limited(nodes: list[Node]) -> Iterator[Computation]:
    for node in nodes:
        if isinstance(node, StageNode):
            if node.computation.time_limit_seconds is not None:
                yield node.computation
            yield from _limited(node.then)


def extracted_key(extract: Callable[[Any], Any], message: Any) -> str:
    """A message's key, spelled. Raises `KeyExtractionError` when the extractor raises or gives what is no key."""
    try:
        key = extract(message)
    except (Exception, SystemExit) as error:
        raise KeyExtractionError(f"the key extractor raised {describe(error)}") from error
    return key if type(key) is str and len(key) < SHORT_KEY else normalize_key(key)


def key_extractor(function: F) -> F:
    """Declare a function of one message that returns its key: str, bytes, int, bool, UUID or an Enum of those.

    It runs in the producer and again in the worker, so it must give the same key for the same message. What it raises
    is raised at a Python producer, and makes a dead letter of a message that comes from another one.
    """
    _positional(function, "a key extractor", (1,), "(message)")
    return function


def declare(
    function: Callable[..., Any],
    *,
    name: str,
    state: type | None,
    key: Callable[[Any], Any] | None,
    multi: bool = False,
    on_error: RetryPolicy | Exhausted | None = None,
    time_limit: timedelta | float | None = None,
    deduplicate: timedelta | float | None = None,
    reply: bool = False,
) -> Computation:
    """Look a declaration over and make its `Computation`. Raises `DeclarationError` with the mend.

    Without a `key` it is a stage, to be used in pipelines; `multi`: it returns a list of outputs.
    """
    if not isinstance(name, str) or not name.strip():
        raise DeclarationError("a computation needs a name=, the task name that producers send")
    check_name("the computation", name)
    if key is not None and not callable(key):
        raise DeclarationError(f"computation {name!r}: key= wants a key extractor, a function of one message")
    if state is None:
        parameters = _positional(function, f"computation {name!r}", (1, 2), "(message) or (message, context)")
    else:
        parameters = _positional(
            function, f"state computation {name!r}", (2, 3), "(message, state) or (message, state, context)"
        )
    if any(is_kind(function) for is_kind in _NOT_PLAIN):
        # Calling one runs nothing of its body: every message would be taken, and nothing done.
        raise DeclarationError(f"computation {name!r} is async or a generator; a computation is a plain function")
    if reply and key is None:
        raise DeclarationError(f"computation {name!r}: reply=True wants a key=; what a stage returns goes on in its pipeline")
    takes_context = len(parameters) == (2 if state is None else 3)
    return Computation(
        name=name,
        function=function,
        extract=key if key is not None else _no_key(name),
        codec=_codec(function, parameters[0], is_stage=key is None),
        state=None if state is None else StateClass(state),
        takes_context=takes_context,
        plain_call=key is not None and state is not None and not takes_context and time_limit is None,
        on_error=_looked_over(name, on_error),
        replies=reply,
        time_limit_seconds=seconds_or_none(name, "time_limit", time_limit),
        deduplicate_seconds=seconds_or_none(name, "deduplicate", deduplicate),
        role="task" if key is not None else "stage",
        multi=multi,
        scope=name,
    )


def _codec(function: Callable[..., Any], parameter: str, *, is_stage: bool) -> MessageCodec:
    """Between stages any Python value can go, so that an annotation need not be one that JSON can be made into."""
    annotation = first_annotation(function, parameter)
    try:
        return MessageCodec(annotation, parameter)
    except DeclarationError:
        if not is_stage:
            raise
        codec = MessageCodec(inspect.Parameter.empty, parameter)
        codec.annotation = annotation
        return codec


def _no_key(name: str) -> Callable[[Any], Any]:
    """The key extractor of a computation that has none."""

    def no_key(message: Any) -> Any:
        raise KeyExtractionError(
            f"{name!r} is a stage of a pipeline: send to the pipeline's source; or give it a key= to send to it"
        )

    return no_key


def _looked_over(name: str, on_error: RetryPolicy | Exhausted | None) -> RetryPolicy | Exhausted | None:
    if on_error is None or isinstance(on_error, RetryPolicy) or on_error in EXHAUSTED_CHOICES:
        return on_error
    raise DeclarationError(f"computation {name!r}: on_error= wants a RetryPolicy or one of {', '.join(EXHAUSTED_CHOICES)}")


def name_of_function(function: Callable[..., Any]) -> str:
    """Of a function, or of the class of an object that can be called."""
    return str(getattr(function, "__name__", type(function).__name__))


def seconds_or_none(name: str, parameter: str, value: timedelta | float | None) -> float | None:
    """Seconds of a parameter that may be a timedelta. Raises `DeclarationError` for what is not above zero."""
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise DeclarationError(f"computation {name!r}: {parameter}= wants a timedelta, or seconds, above zero")
    return float(seconds)


def _positional(function: Callable[..., Any], what: str, counts: tuple[int, ...], form: str) -> list[str]:
    """The names of a function's positional parameters; raises `DeclarationError` when there are not that many.

    Those that have a default may be more: nobody gives them.
    """
    if not callable(function):
        raise DeclarationError(f"{what}: decorate a function, not {function!r}")
    try:
        by_name = inspect.signature(function).parameters
    except ValueError as error:
        raise DeclarationError(f"{what}: {error}") from error
    parameters = by_name.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(names) not in counts:
        names = [name for name in names if by_name[name].default is inspect.Parameter.empty]
    needed_by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(names) not in counts or needed_by_name:
        raise DeclarationError(f"{what} must take {form}; {getattr(function, '__qualname__', function)} takes {names}")
    return names
