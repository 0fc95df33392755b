"""The decorators, and what they return: a computation that you can send to, read states from, and call in a test."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack, cast, overload

import msgspec
from celery.canvas import Signature

from celery_partitions.model.annotations import plain_function
from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import check_is_named, declare, name_of_function, timer_handler
from celery_partitions.model.keys import normalize_key
from celery_partitions.producer.options import Options, StageOptions, StateOptions, StateStageOptions, TimerOptions
from celery_partitions.producer.sendable import Sending
from celery_partitions.runtime import stand_in
from celery_partitions.runtime.registry import add_computation, current_group

if TYPE_CHECKING:
    from celery_partitions.producer.typed import TypedComputation, TypedStateComputation

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M")
H = TypeVar("H", bound=Callable[..., Any])


class OrderedComputation(Sending, Generic[P, R]):
    """A declared computation. Workers apply the messages of a key in order, one at a time. Calling it calls your function."""

    def __init__(self, computation: Computation) -> None:
        self.computation = computation
        function = computation.function
        self.__wrapped__ = function
        self.__doc__ = function.__doc__
        self.__name__ = name_of_function(function)
        self.__module__ = function.__module__
        self.__qualname__ = getattr(plain_function(function), "__qualname__", type(function).__qualname__)

    @property
    def name(self) -> str:
        """The task name that producers send."""
        return self.computation.name

    def _receiver(self) -> Computation:
        return self.computation

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast(R, self.computation.function(*args, **kwargs))

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Celery's signature of a call, for chains, groups and chords. Raises `MessageError` for an invalid message."""
        return self.task.s(*self._plain(args), **self._plain_by_name(kwargs))

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Celery's immutable signature of a call: it does not receive the result of the task before it."""
        return self.task.si(*self._plain(args), **self._plain_by_name(kwargs))

    def _plain(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The message as plain JSON values, because Celery cannot encode dataclasses inside another message's body."""
        if len(args) != 1:
            return args
        body, _ = self.computation.codec.encode(args[0])
        return (msgspec.json.decode(body)[0][0],)

    def _plain_by_name(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The same for a message that is passed by keyword."""
        return {
            name: self._plain((value,))[0] if name == self.computation.codec.parameter else value
            for name, value in kwargs.items()
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _by_name, (self.__module__, self.__qualname__)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class StateComputation(OrderedComputation[P, R], Generic[P, R, S]):
    """A declared computation with state. You can read the states of its keys from any process."""

    def state(self, key: object) -> S | None:
        """A copy of the key's last committed state; None for an unknown key. Changing the copy has no effect.

        Reads Redis once. Raises `StateError` if the state cannot be read, and redis-py's errors.
        """
        return cast("S | None", current_group().states.get(self.computation, key))

    def states(self, keys: Iterable[object]) -> dict[str, S]:
        """The states of several keys, in one round trip: normalized key → state. Unknown keys are left out."""
        if isinstance(keys, str | bytes):
            # A text is an iterable of its characters: the answer would be the states of other keys.
            raise TypeError("states() takes several keys, for example a list. For one key call state(key)")
        return current_group().states.get_many(self.computation, keys)

    async def astate(self, key: object) -> S | None:
        """`state` for asyncio."""
        return (await self.astates([key])).get(normalize_key(key))

    async def astates(self, keys: Iterable[object]) -> dict[str, S]:
        """`states` for asyncio."""
        if stand_in.current is not None or isinstance(keys, str | bytes):
            return self.states(keys)
        group = current_group()
        await group.check_async()
        return await group.async_clients.run(group.state_reader.reading(self.computation, keys))

    def on_timer(self, name: str, **options: Unpack[TimerOptions]) -> Callable[[H], H]:
        """Declare the handler of a timer: a function `(timer, state)` or `(timer, state, context)`, called when `context.timers` says.

        It is a computation like any other: its changes of the state, what it sends, the timers that it sets are one commit; it is retried and
        parked, and becomes a dead letter. In a pipeline, what it returns goes to the next stage. It may be an `async def`. `on_error`: default as
        for this computation. The other options: as for `state_computation`. Returns the function. Raises `DeclarationError`.
        """

        def declare_handler(function: H) -> H:
            handler = timer_handler(self.computation, name, function, **options)
            if self.computation.role == "task":
                add_computation(handler)
            return function

        return declare_handler

    def keys(self) -> Iterator[str]:
        """Iterate over every key with a state, by scanning. If keys change meanwhile, a key may appear twice."""
        return current_group().states.keys(*self.computation.formerly, self.name)

    def forget(self, key: object) -> bool:
        """Delete the key's state. The key's next message starts with a new one. Returns whether there was a state."""
        return current_group().states.forget(self.computation, key)


def _called_with_a_name(decorator: Callable[P, R]) -> Callable[P, R]:
    """Refuse the decorator without parentheses or without a name, before Python asks for the arguments that are missing."""

    @functools.wraps(decorator)
    def called(*arguments: P.args, **keywords: P.kwargs) -> R:
        if arguments or "name" not in keywords:
            check_is_named(arguments[0] if arguments else None, f"@{decorator.__name__}(name=…, state=…)")
        return decorator(*arguments, **keywords)

    return called


@overload
def state_computation(
    name: str, *, state: type[S], key: Callable[[Any], Any] | None = None, **options: Unpack[StateOptions]
) -> Callable[[Callable[Concatenate[M, S, P], R]], TypedStateComputation[M, Concatenate[M, S, P], R, S]]: ...
@overload
def state_computation(
    name: str,
    *,
    state: type[S],
    key: Callable[[Any], Any],
    flush_every: int,
    flush_interval: timedelta | float | None = None,
    **options: Unpack[StateOptions],
) -> Callable[[Callable[Concatenate[list[M], S, P], R]], TypedStateComputation[M, Concatenate[list[M], S, P], R, S]]: ...
@_called_with_a_name
def state_computation(
    name: str, *, state: type[S], key: Callable[[Any], Any] | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Any]:
    """Declare a function `(message, state)` or `(message, state, context)` as a state computation.

    The function runs in a partition worker, in a thread of that process, for each message, in the order of the message's key. It
    changes the state in place. After a crash, a refused commit or a retry it runs again, on the last committed state. So its effects
    outside the state happen at least once.

    `name`: the task name that producers send. `state`: a class that can be created without arguments and pickled; each key has one
    object. `key`: the key extractor. Without one the function is a stage for pipelines: `key_by` gives the key, and what the function
    returns goes to the next stage (None goes nowhere).

    `on_error`: a `RetryPolicy`, or only what happens after the last retry ("park", "dead_letter", "hold", "stop"). None: as set by
    `PARTITIONS_RETRY_…`. `holds`: what waits while a failed message of it waits: all later messages of its key ("key"), or only its own
    ("computation"). `time_limit`: seconds or a timedelta; a longer call is interrupted by `TimeLimitExceeded` and counts as failed.
    If it cannot be interrupted, the worker process is replaced. `deduplicate`: seconds or a timedelta; a message whose id was
    seen within this time has no effect.

    `reply`: store what the function returns (it must be JSON) as the message's Celery result, in the commit that writes the state.
    `update.delay(message).get()` then is a request to the key, answered in the key's order. If the message is given up, `get()`
    raises its error. A message can override this (`apply_async(ignore_result=…)`). `follow_ups=False`: a message that names links, the
    rest of a chain or a chord becomes a dead letter, and nothing of it is sent. For computations whose producers you do not trust.

    An `async def` runs in the worker's event loop, and calls of many keys are in flight at once; the calls of one key still run one at a
    time, in order. `executor="threads"` does the same for a blocking function, in a pool of threads. `concurrency`: the maximum number of calls in
    flight in one worker process (default `PARTITIONS_CONCURRENCY`). `strict`: a key's next call starts only after the commit of the one
    before; by default it starts when that call has ended, and if the commit is refused both run again.

    `rate_limit`: how often the calls of a key may start, in Celery's spelling ("10/s", "100/m", "5/h"). `rate_limit_key`: a function of the
    message that returns another text to count by, such as a host name; all partitions and workers share this limit. `burst`: how many calls
    may start at once after a pause (default 1, or what the rate allows in 50 ms). A message that must wait holds up only its own key.

    `ttl`: seconds or a timedelta; a key that no message has used for this time is forgotten: its state and timers are deleted. Before that,
    `on_expire` is called once, a function of `(state)` or `(state, context)`, which may send.

    `flush_every`: the function receives a list of a key's messages, `(messages, state)`, and is called when there are this many, or
    `flush_interval` (seconds or a timedelta, default 1) after the first. Senders still send one message at a time. A call succeeds or fails as a
    whole. If it fails for the last time, it is halved, until the message that spoils it stands alone.

    `formerly`: what the computation was called before. Messages with such a name are its own, and a worker that gets a partition takes the
    states over. Workers without this line then no longer get that partition.

    Raises `DeclarationError`.
    """

    return _decorator(StateComputation, StateOptions, name, options, state=state, key=key)


@_called_with_a_name
def state_computation_multi(
    name: str, *, state: type[S], **options: Unpack[StateStageOptions]
) -> Callable[[Callable[Concatenate[M, S, P], R]], TypedStateComputation[M, Concatenate[M, S, P], R, S]]:
    """Like `state_computation`, for a pipeline stage that returns a list: each element goes to the next stage, in order, except None."""

    return _decorator(StateComputation, StateStageOptions, name, options, state=state, multi=True)


@overload
def computation(
    name: str, *, key: Callable[[Any], Any] | None = None, **options: Unpack[Options]
) -> Callable[[Callable[Concatenate[M, P], R]], TypedComputation[M, Concatenate[M, P], R]]: ...
@overload
def computation(
    name: str, *, key: Callable[[Any], Any], flush_every: int, flush_interval: timedelta | float | None = None, **options: Unpack[Options]
) -> Callable[[Callable[Concatenate[list[M], P], R]], TypedComputation[M, Concatenate[list[M], P], R]]: ...
def computation(
    name: str, *, key: Callable[[Any], Any] | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Any]:
    """Declare a function `(message)` or `(message, context)` as a stateless computation, ordered by key.

    It runs in a partition worker, at least once for each message, in the order of the message's key. Without a `key` it is a stage for
    pipelines: what it returns goes to the next stage (None goes nowhere). The other parameters are those of `state_computation`.
    Raises `DeclarationError`.
    """

    return _decorator(OrderedComputation, Options, name, options, key=key)


def computation_multi(
    name: str, **options: Unpack[StageOptions]
) -> Callable[[Callable[Concatenate[M, P], R]], TypedComputation[M, Concatenate[M, P], R]]:
    """Like `computation`, for a pipeline stage that returns a list: each element goes to the next stage, in order, except None."""

    return _decorator(OrderedComputation, StageOptions, name, options, multi=True)


#: The options of the second overloads, with which the function receives a list of messages.
_BATCH_OPTIONS = {"flush_every", "flush_interval"}


def _decorator(
    handle: type[OrderedComputation[..., Any]],
    allowed: type,
    name: str,
    options: Mapping[str, Any],
    *,
    state: type | None = None,
    key: Callable[[Any], Any] | None = None,
    multi: bool = False,
) -> Callable[[Callable[..., Any]], Any]:
    """What the four decorators share: declare the function and register it. A stage has no key; its pipeline registers it."""
    check_is_named(name)  # here, because `@computation` without a call passes the function as the name
    unknown = options.keys() - allowed.__annotations__.keys() - (set() if multi else _BATCH_OPTIONS)
    if unknown:
        raise TypeError(f"computation {name!r}: unexpected keyword argument {min(unknown)!r}")

    def decorate(function: Callable[..., Any]) -> Any:
        declaration = declare(function, name=name, state=state, key=key, multi=multi, **options)
        if key is not None:
            for one in (declaration, *declaration.handlers.values()):
                add_computation(one)
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
