"""What the decorators return: a declared computation that can be sent to, asked for its states, and called in a test."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, cast

import msgspec
from celery.canvas import Signature

from celery_partitions.model.computation import Computation, declare, name_of_function
from celery_partitions.model.policy import Exhausted, RetryPolicy
from celery_partitions.producer.sendable import Sending
from celery_partitions.runtime.registry import add_computation, current_installation

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


class OrderedComputation(Sending, Generic[P, R]):
    """A declared computation: messages of one key in order, one at a time. Calling it calls the plain function."""

    def __init__(self, computation: Computation) -> None:
        self.computation = computation
        function = computation.function
        self.__wrapped__ = function
        self.__doc__ = function.__doc__
        self.__name__ = name_of_function(function)
        self.__module__ = function.__module__
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)

    @property
    def name(self) -> str:
        """The task name that producers send."""
        return self.computation.name

    def _receiver(self) -> Computation:
        return self.computation

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast(R, self.computation.function(*args, **kwargs))

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Celery's signature of a call, for chains, groups and chords. A message is looked over and made JSON: raises `MessageError`."""
        return self.task.s(*self._plain(args), **self._plain_by_name(kwargs))

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Celery's immutable signature of a call: what was returned before it is not given to it."""
        return self.task.si(*self._plain(args), **self._plain_by_name(kwargs))

    def _plain(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A message as the JSON that stands in another message's body; Celery knows no dataclasses."""
        if len(args) != 1:
            return args
        body, _ = self.computation.codec.encode(args[0])
        return (msgspec.json.decode(body)[0][0],)

    def _plain_by_name(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The same of a message that is given by the parameter's name."""
        return {
            name: self._plain((value,))[0] if name == self.computation.codec.parameter else value
            for name, value in kwargs.items()
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _by_name, (self.__module__, self.__qualname__)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class StateComputation(OrderedComputation[P, R], Generic[P, R, S]):
    """A declared state computation: beside that, the states of its keys can be read from anywhere."""

    def state(self, key: object) -> S | None:
        """A copy of the key's state as last committed; None when the key was never seen. Changing it changes nothing.

        Raises `StateError` when it can't be read.
        """
        return cast("S | None", current_installation().group.states.get(self.computation, key))

    def states(self, keys: Iterable[object]) -> dict[str, S]:
        """Key, spelled as text → state, for the keys that have one."""
        return current_installation().group.states.get_many(self.computation, keys)

    def keys(self) -> Iterator[str]:
        """Every key with a state, scanned, never all in memory. While keys come and go one may be given twice."""
        return current_installation().group.states.keys(self.name)

    def forget(self, key: object) -> bool:
        """Delete the key's state; the key's next message finds a new one. Returns whether there was a state."""
        return current_installation().group.states.forget(self.computation, key)


def state_computation(
    name: str,
    *,
    state: type[S],
    key: Callable[[Any], Any] | None = None,
    on_error: RetryPolicy | Exhausted | None = None,
    time_limit: timedelta | float | None = None,
    deduplicate: timedelta | float | None = None,
    reply: bool = False,
) -> Callable[[Callable[P, R]], StateComputation[P, R, S]]:
    """Declare a function `(message, state)` or `(message, state, context)` as a state computation.

    `name`: what producers send. `state`: a class that can be made with no arguments and pickled; one object per key.
    `key`: the key extractor; without one it is a stage for pipelines, where `key_by` gives the key, and what it returns goes on (None:
    nothing). The function runs in a partition worker, once for each message in the order of its key, and
    changes the state in place; it runs again after a crash, a failure of the commit, or a retry, on the state that was
    committed, so what it does outside its state happens at least once.

    `on_error`: what follows when it raises: a `RetryPolicy`, or only what follows the last retry ("park", "dead_letter",
    "hold", "stop"); None: as the settings say. `time_limit`, seconds: a call that takes longer has `TimeLimitExceeded` raised in
    it, and failed; one that can't be interrupted has its process replaced. `deduplicate`, seconds: a message whose id was seen
    so long ago, or a little longer, changes nothing. Raises `DeclarationError`.

    `reply`: what the function returns, JSON by Celery's rules, is stored as the message's result in the commit that writes its
    state, so that `update.delay(message).get()` is a request to the key, answered in its order; what it raised, when it was given
    up, is raised there. A message may say otherwise (`apply_async(ignore_result=…)`).
    """

    return _decorator(
        StateComputation,
        name=name,
        state=state,
        key=key,
        on_error=on_error,
        time_limit=time_limit,
        deduplicate=deduplicate,
        reply=reply,
    )


def state_computation_multi(
    name: str,
    *,
    state: type[S],
    on_error: RetryPolicy | Exhausted | None = None,
    time_limit: timedelta | float | None = None,
) -> Callable[[Callable[P, R]], StateComputation[P, R, S]]:
    """As `state_computation`, for a stage of a pipeline that returns a list: each element goes on, in order, None left out."""

    return _decorator(StateComputation, name=name, state=state, multi=True, on_error=on_error, time_limit=time_limit)


def computation(
    name: str,
    *,
    key: Callable[[Any], Any] | None = None,
    on_error: RetryPolicy | Exhausted | None = None,
    time_limit: timedelta | float | None = None,
    deduplicate: timedelta | float | None = None,
    reply: bool = False,
) -> Callable[[Callable[P, R]], OrderedComputation[P, R]]:
    """Declare a function `(message)` or `(message, context)` as a stateless computation, ordered by key.

    It runs in a partition worker, at least once for each message, in the order of its key. Without a `key` it is a stage for pipelines,
    and what it returns goes on (None: nothing). `on_error`, `time_limit` and
    `deduplicate` and `reply` are as in `state_computation`. Raises `DeclarationError`.
    """

    return _decorator(
        OrderedComputation,
        name=name,
        key=key,
        on_error=on_error,
        time_limit=time_limit,
        deduplicate=deduplicate,
        reply=reply,
    )


def computation_multi(
    name: str,
    *,
    on_error: RetryPolicy | Exhausted | None = None,
    time_limit: timedelta | float | None = None,
) -> Callable[[Callable[P, R]], OrderedComputation[P, R]]:
    """As `computation`, for a stage of a pipeline that returns a list: each element goes on, in order, None left out."""

    return _decorator(OrderedComputation, name=name, multi=True, on_error=on_error, time_limit=time_limit)


def _decorator(
    handle: type[OrderedComputation[..., Any]],
    *,
    state: type | None = None,
    key: Callable[[Any], Any] | None = None,
    **declared: Any,
) -> Callable[[Callable[..., Any]], Any]:
    """What the four decorators do: declare the function, and register it. A stage has no key: its pipeline registers it."""

    def decorate(function: Callable[..., Any]) -> Any:
        declaration = declare(function, state=state, key=key, **declared)
        if key is not None:
            add_computation(declaration)
        return handle(declaration)

    return decorate


def _by_name(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


__all__ = [
    "OrderedComputation",
    "StateComputation",
    "computation",
    "computation_multi",
    "state_computation",
    "state_computation_multi",
]
