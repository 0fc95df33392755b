"""Wallaroo's decorators. They return a stage for our pipelines that also has the methods which Wallaroo's tests use:

    .name()   .compute(data[, state])   .compute_multi(data[, state])   .extract_key(data) or .partition(data)

Type annotations of an application's functions are ignored: in Wallaroo messages are passed on as the objects they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from celery_partitions.model.arity import misfit
from celery_partitions.model.computation import Computation as Stage
from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.state import StateClass


class WallarooParameterError(DeclarationError):
    """An application passed an invalid argument to this API. The text says which, and what is expected."""


class Declared:
    """A decorated function. Pickled by its name if its module has it under that name, else by its parts."""

    __qualname__: str

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function = function
        self._arguments = arguments
        _name_like(self, function)

    def __reduce__(self) -> str | tuple[Any, ...]:
        found: Any = sys.modules.get(self.__module__)
        for part in self.__qualname__.split("."):
            found = getattr(found, part, None)
        return self.__qualname__ if found is self else (type(self), (self.function, *self._arguments))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__qualname__}>"


class Named(Declared):
    """A decorated computation."""

    multi = False

    def __init__(self, function: Callable[..., Any], name: str, takes: int, what: str, *arguments: Any) -> None:
        super().__init__(function, name, *arguments)
        self._name = _a_name(name, what)
        _takes(function, takes, f"{what.replace('_', ' ')} {name!r}")

    def name(self) -> str:
        return self._name

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments) if arguments else self


class Computation(Named):
    """A stateless computation. The result of `compute` is passed on, unless it is None."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        super().__init__(function, name, 1, "computation")

    def compute(self, data: Any) -> Any:
        return self.function(data)

    @cached_property
    def computation(self) -> Stage:
        """This computation as a stage for our pipelines."""
        return stage_of(self.compute, self._name, multi=self.multi, like=self)


class ComputationMulti(Computation):
    """A stateless computation that returns None or a list, whose elements are passed on one by one."""

    multi = True
    compute_multi = Computation.compute


class StateComputation(Named):
    """A computation with a state per key.

    `state`: a class, or another callable that returns a new state; None if the older builder passes it.
    """

    def __init__(self, function: Callable[..., Any], name: str, state: Callable[[], Any] | None) -> None:
        super().__init__(function, name, 2, "state_computation", state)
        self.state = state
        if state is not None:
            state_class(name, state)

    def compute(self, data: Any, state: Any) -> Any:
        """Call the function, which may change the state in place, and return its result."""
        return self.function(data, state)

    def initial_state(self) -> Any:
        """A new state for a key."""
        return None if self.state is None else self.state()

    @cached_property
    def computation(self) -> Stage:
        """This computation as a stage for our pipelines. Raises `WallarooParameterError` without a state class."""
        if self.state is None:
            raise WallarooParameterError(f"state computation {self._name!r} has no state=: pass the class of its states")
        return stage_of(self.compute, self._name, multi=self.multi, like=self, state=state_class(self._name, self.state))


class StateComputationMulti(StateComputation):
    """A state computation that returns None or a list, whose elements are passed on one by one."""

    multi = True
    compute_multi = StateComputation.compute


class KeyExtractor(Declared):
    """A function that returns a message's key."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        _takes(function, 1, "a key extractor")

    def extract_key(self, data: Any) -> Any:
        return self.function(data)

    partition = __call__ = extract_key


def computation(name: str) -> Callable[[Callable[..., Any]], Computation]:
    """Declare a function of one message. Its result is passed on, unless it is None."""
    _a_name(name, "computation")
    return lambda function: Computation(function, name)


def computation_multi(name: str) -> Callable[[Callable[..., Any]], ComputationMulti]:
    """Declare a function of one message that returns None or a list of results."""
    _a_name(name, "computation_multi")
    return lambda function: ComputationMulti(function, name)


def state_computation(
    name: str, state: Callable[[], Any] | None = None
) -> Callable[[Callable[..., Any]], StateComputation]:
    """Declare a function of a message and its key's state. `state`: the state class; omit it if the older builder passes it."""
    _a_name(name, "state_computation")
    return lambda function: StateComputation(function, name, state)


def state_computation_multi(
    name: str, state: Callable[[], Any] | None = None
) -> Callable[[Callable[..., Any]], StateComputationMulti]:
    """Like `state_computation`, for a function that returns None or a list of results."""
    _a_name(name, "state_computation_multi")
    return lambda function: StateComputationMulti(function, name, state)


def key_extractor(function: Callable[..., Any]) -> KeyExtractor:
    """Declare a function that returns a message's key. `partition` is its older name."""
    return KeyExtractor(function)


partition = key_extractor


def stage_of(
    call: Callable[..., Any], name: str, *, multi: bool, like: Any, state: StateClass[Any] | None = None
) -> Stage:
    """A stage for our pipelines. `like`: the object whose module and name the stage gets, for logs and errors."""

    def with_message(message: Any) -> Any:
        return call(message)

    def with_state(message: Any, state: Any) -> Any:
        return call(message, state)

    function = with_message if state is None else with_state
    _name_like(function, like)
    declared = declare(function, name=name, state=None if state is None else dict, key=None, multi=multi)
    return replace(declared, state=state)


def _name_like(made: Any, like: Any) -> None:
    """Give a function or an object the module, name and docstring of another, for logs and errors. An object has those of its class."""
    made.__doc__ = getattr(like, "__doc__", None)
    made.__module__ = getattr(like, "__module__", type(like).__module__)
    made.__name__ = str(getattr(like, "__name__", type(like).__name__))
    made.__qualname__ = str(getattr(like, "__qualname__", type(like).__qualname__))


def state_class(name: str, make: Callable[[], Any]) -> StateClass[Any]:
    """A factory of states. `make`: a class, or a callable that returns a new state. Raises `WallarooParameterError`."""
    try:
        if isinstance(make, type):
            return StateClass(make)
        return StateClass(type(make()), make=make)
    except Exception as error:
        raise WallarooParameterError(f"state computation {name!r}: {error}") from error


def _a_name(name: Any, what: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise WallarooParameterError(f'@wallaroo.{what} needs a name: @wallaroo.{what}(name="…")')
    return name


def _takes(function: Any, count: int, what: str) -> None:
    if not callable(function):
        raise WallarooParameterError(f"{what}: expected a function to decorate, not {function!r:.80}")
    if error := misfit(function, count):
        wanted = "(data)" if count == 1 else "(data, state)"
        name = getattr(function, "__qualname__", function)
        raise WallarooParameterError(f"{what} must take {wanted}, but {name} does not: {error}")
