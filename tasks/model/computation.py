"""A computation as declared: its function, its state class, its key extractor, and what follows a failure."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tasks.model.errors import DeclarationError, KeyExtractionError, say
from tasks.model.keys import SHORT_KEY, spell_key
from tasks.model.messages import MessageCodec, first_annotation
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


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What follows a computation that raises: so many retries of the message, then a dead letter.

    Only the message's own key waits meanwhile; its later messages queue up behind it.
    """

    attempts: int
    backoff_seconds: float

    def delay_after(self, attempt: int) -> float | None:
        """Seconds to wait after the `attempt`-th try failed (1 is the first); None when there is no other try."""
        if attempt > self.attempts:
            return None
        return float(self.backoff_seconds * 2 ** min(attempt - 1, 16))


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
    #: None: as the settings say.
    retry: RetryPolicy | None = None

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
    retry: RetryPolicy | None = None,
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
    return Computation(
        name=name,
        function=function,
        extract=key,
        codec=MessageCodec(first_annotation(function, parameters[0]), parameters[0]),
        state=None if state is None else StateClass(state),
        takes_context=len(parameters) == (2 if state is None else 3),
        retry=retry,
    )


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
