"""A computation as declared: its function, its state class, its key extractor, and what follows a failure."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from tasks.model.errors import DeclarationError, KeyExtractionError, say
from tasks.model.keys import SHORT_KEY, spell_key
from tasks.model.messages import MessageCodec, first_annotation
from tasks.model.policy import THEN, RetryPolicy, Then
from tasks.model.state import StateClass

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
    on_error: RetryPolicy | Then | None = None
    #: So many seconds one call may take; None: any.
    time_limit_seconds: float | None = None
    #: A message whose id was seen within so many seconds changes nothing; None: ids are not looked at.
    deduplicate_seconds: float | None = None
    #: Whether a message that does not say is answered: the returned value is stored as its Celery result.
    replies: bool = False

    def key_of(self, message: Any) -> str:
        """The message's key, spelled. Raises `KeyExtractionError` when the extractor raises or gives what is no key."""
        try:
            key = self.extract(message)
        except (Exception, SystemExit) as error:
            raise KeyExtractionError(f"the key extractor raised {say(error)}") from error
        return key if type(key) is str and len(key) < SHORT_KEY else spell_key(key)


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
    key: Callable[[Any], Any],
    on_error: RetryPolicy | Then | None = None,
    time_limit: timedelta | float | None = None,
    deduplicate: timedelta | float | None = None,
    reply: bool = False,
) -> Computation:
    """Look a declaration over and make its `Computation`. Raises `DeclarationError` with the mend."""
    if not isinstance(name, str) or not name.strip():
        raise DeclarationError("a computation needs a name=, the task name that producers send")
    if not callable(key):
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
    takes_context = len(parameters) == (2 if state is None else 3)
    return Computation(
        name=name,
        function=function,
        extract=key,
        codec=MessageCodec(first_annotation(function, parameters[0]), parameters[0]),
        state=None if state is None else StateClass(state),
        takes_context=takes_context,
        plain_call=state is not None and not takes_context and time_limit is None,
        on_error=_looked_over(name, on_error),
        time_limit_seconds=_seconds(name, "time_limit", time_limit),
        deduplicate_seconds=_seconds(name, "deduplicate", deduplicate),
        replies=reply,
    )


def _looked_over(name: str, on_error: RetryPolicy | Then | None) -> RetryPolicy | Then | None:
    if on_error is None or isinstance(on_error, RetryPolicy) or on_error in THEN:
        return on_error
    raise DeclarationError(f"computation {name!r}: on_error= wants a RetryPolicy or one of {', '.join(THEN)}")


def _seconds(name: str, parameter: str, value: timedelta | float | None) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise DeclarationError(f"computation {name!r}: {parameter}= wants a timedelta, or seconds, above zero")
    return float(seconds)


def _positional(function: Callable[..., Any], what: str, counts: tuple[int, ...], form: str) -> list[str]:
    """The names of a function's positional parameters; raises `DeclarationError` when there are not that many."""
    if not callable(function):
        raise DeclarationError(f"{what}: decorate a function, not {function!r}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise DeclarationError(f"{what}: {error}") from error
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed_by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(names) not in counts or needed_by_name:
        raise DeclarationError(f"{what} must take {form}; {getattr(function, '__qualname__', function)} takes {names}")
    return names
