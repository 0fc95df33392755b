"""Checks the declaration of a computation, and makes a `Computation` of it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeVar

from celery_partitions.model.annotations import first_annotation, plain_function
from celery_partitions.model.computation import EXPIRY_TASK, Computation, timer_task
from celery_partitions.model.errors import DeclarationError, KeyExtractionError
from celery_partitions.model.executors import executor_of, is_async
from celery_partitions.model.flushing import element_of, flush_of
from celery_partitions.model.message_codec import MessageCodec
from celery_partitions.model.names_given import check_name
from celery_partitions.model.policy import EXHAUSTED_CHOICES, HOLDS_CHOICES, Exhausted, Holds, RetryPolicy
from celery_partitions.model.rate_limit import rate_limit_of
from celery_partitions.model.state import StateClass

F = TypeVar("F", bound=Callable[..., Any])

_GENERATORS = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)


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
    flush_every: int | None = None,
    flush_interval: timedelta | float | None = None,
    formerly: str | Iterable[str] = (),
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
    refused = {'holds="computation"': holds == "computation", "rate_limit_key=": rate_limit_key is not None}
    flush = flush_of(name, function, parameters[0], flush_every, flush_interval, key, refused)
    _compare_annotations(name, function, parameters, state, key, is_batch=flush is not None)
    where, limit = executor_of(name, function, executor, concurrency, strict), rate_limit_of(name, rate_limit, rate_limit_key, burst)
    if reply and key is None:
        raise DeclarationError(f"computation {name!r}: reply=True needs a key=. Without one it is a stage, and what it returns goes to the next stage")
    _check_holds(name, holds, key)
    takes_context = len(parameters) == (2 if state is None else 3)
    ttl_seconds = seconds_or_none(name, "ttl", ttl)
    if on_expire is not None and ttl_seconds is None:
        raise DeclarationError(f"computation {name!r}: on_expire= needs a ttl=, the time after which a key that is not used is forgotten")
    made = Computation(
        name=name,
        function=function,
        extract=key if key is not None else _no_key(name),
        codec=_codec(function, parameters[0], is_stage=key is None, is_batch=flush is not None),
        state=None if state is None else StateClass(state),
        takes_context=takes_context,
        plain_call=state is not None and where == "loop" and not any((key is None, time_limit, limit, flush)),
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
        flush=flush,
        formerly=former_names(name, formerly),
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


def _compare_annotations(
    name: str,
    function: Callable[..., Any],
    parameters: Sequence[str],
    state: type | None,
    key: Callable[[Any], Any] | None,
    *,
    is_batch: bool,
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
        message = _class_annotated(function, parameters[0], is_batch=is_batch)
        wanted = _class_annotated(key, None)
        if message is not None and wanted is not None and not _fits(message, wanted):
            advice = ". Or give it several messages at once, with flush_every=" if message is list else ""
            raise DeclarationError(
                f"computation {name!r}: its messages are {message.__qualname__}, but the key extractor {name_of_function(key)} takes "
                f"{wanted.__qualname__}. Use a key extractor for {message.__qualname__}{advice}"
            )


def _class_annotated(function: Callable[..., Any], parameter: str | None, *, is_batch: bool = False) -> type | None:
    """A parameter's annotation, if it is a class. `parameter` None: the first one. `is_batch`: that of a list's elements."""
    try:
        annotation = first_annotation(function, parameter or next(iter(inspect.signature(function).parameters)))
        annotation = element_of(annotation) if is_batch else annotation
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


def check_is_named(name: object, form: str = "@computation(name=…)") -> None:
    if not isinstance(name, str) or not name.strip():
        raise DeclarationError(f"a computation needs a name, the task name that producers send: {form}")


def former_names(name: str, formerly: str | Iterable[str]) -> tuple[str, ...]:
    """`formerly=` of a computation. Raises `DeclarationError`."""
    names = (formerly,) if isinstance(formerly, str) else tuple(formerly)
    for one in names:
        check_name(f"computation {name!r}: formerly=", one)
        if one == name:
            raise DeclarationError(f"computation {name!r}: formerly= names what it was called before, not its name")
    return tuple(dict.fromkeys(names))


def _codec(function: Callable[..., Any], parameter: str, *, is_stage: bool, is_batch: bool) -> MessageCodec:
    """The codec of the first parameter, or of the elements of its list. A stage can receive any Python value, so its annotation need not have a
    form in JSON."""
    annotation = first_annotation(function, parameter)
    annotation = element_of(annotation) if is_batch else annotation
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


def _check_holds(name: str, holds: Holds, key: object) -> None:
    if holds not in HOLDS_CHOICES:
        raise DeclarationError(f"computation {name!r}: holds must be one of {', '.join(HOLDS_CHOICES)}, not {holds!r:.80}")
    if holds == "computation" and key is None:
        raise DeclarationError(f'computation {name!r}: holds="computation" needs a key=. In a pipeline, a failed message always holds its whole key')


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
