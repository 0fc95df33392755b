"""Wallaroo's decorators, and what they return: a function that is a stage for our pipelines, and an object as Wallaroo's tests use it.

    .name()   .compute(data[, state])   .compute_multi(data[, state])   .extract_key(data) or .partition(data)

Annotations of an application's functions say nothing here: in Wallaroo a message goes on as the object that it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from celery_partitions.model.arity import misfit
from celery_partitions.model.computation import Computation as Stage
from celery_partitions.model.computation import declare
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.state import StateClass


class WallarooParameterError(DeclarationError):
    """What an application gave to a function of this API can't be used."""


class Declared:
    """A function under the name of what it was declared as; pickles by that name, else by its parts."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function = function
        self._arguments = arguments
        self.__doc__ = getattr(function, "__doc__", None)
        self.__module__ = getattr(function, "__module__", type(function).__module__)
        self.__name__ = str(getattr(function, "__name__", type(function).__name__))
        self.__qualname__ = str(getattr(function, "__qualname__", type(function).__qualname__))

    def __reduce__(self) -> str | tuple[Any, ...]:
        found: Any = sys.modules.get(self.__module__)
        for part in self.__qualname__.split("."):
            found = getattr(found, part, None)
        return self.__qualname__ if found is self else (type(self), (self.function, *self._arguments))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__qualname__}>"


class Computation(Declared):
    """A stateless computation: what `compute` returns goes on, but for None."""

    multi = False

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        super().__init__(function, name)
        self._name = _a_name(name, "computation")
        _takes(function, 1, f"computation {name!r}")

    def name(self) -> str:
        """As it was declared."""
        return self._name

    def compute(self, data: Any) -> Any:
        """What the function returns."""
        return self.function(data)

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments) if arguments else self

    @cached_property
    def computation(self) -> Stage:
        """As our pipelines take it."""
        return stage_of(self.compute, self._name, multi=self.multi, like=self)


class ComputationMulti(Computation):
    """A stateless computation that returns a list, whose elements go on one by one, or None."""

    multi = True
    compute_multi = Computation.compute


class StateComputation(Declared):
    """A computation with a state for each key. `state`: a class, or what else makes a first state when called; None where the older
    builder gives it."""

    multi = False

    def __init__(self, function: Callable[..., Any], name: str, state: Callable[[], Any] | None) -> None:
        super().__init__(function, name, state)
        self._name = _a_name(name, "state_computation")
        self.state = state
        _takes(function, 2, f"state computation {name!r}")
        if state is not None:
            state_class(name, state)

    def name(self) -> str:
        """As it was declared."""
        return self._name

    def compute(self, data: Any, state: Any) -> Any:
        """What the function returns; it changes the state in place."""
        return self.function(data, state)

    def initial_state(self) -> Any:
        """A key's first state."""
        return None if self.state is None else self.state()

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments) if arguments else self

    @cached_property
    def computation(self) -> Stage:
        """As our pipelines take it. Raises `WallarooParameterError` when there is no state class."""
        if self.state is None:
            raise WallarooParameterError(f"state computation {self._name!r} has no state=, the class of its states")
        return stage_of(self.compute, self._name, multi=self.multi, like=self, state=state_class(self._name, self.state))


class StateComputationMulti(StateComputation):
    """A state computation that returns a list, whose elements go on one by one, or None."""

    multi = True
    compute_multi = StateComputation.compute


class KeyExtractor(Declared):
    """A function of a message that gives its key."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        _takes(function, 1, "a key extractor")

    def extract_key(self, data: Any) -> Any:
        """The message's key."""
        return self.function(data)

    partition = extract_key

    def __call__(self, data: Any) -> Any:
        return self.function(data)


def computation(name: str) -> Callable[[Callable[..., Any]], Computation]:
    """Declare a function of one message, whose result goes on."""
    _a_name(name, "computation")
    return lambda function: Computation(function, name)


def computation_multi(name: str) -> Callable[[Callable[..., Any]], ComputationMulti]:
    """Declare a function of one message that returns a list of results."""
    _a_name(name, "computation_multi")
    return lambda function: ComputationMulti(function, name)


def state_computation(
    name: str, state: Callable[[], Any] | None = None
) -> Callable[[Callable[..., Any]], StateComputation]:
    """Declare a function of a message and the state of its key. `state` may be left out for the older builder, which gives it."""
    _a_name(name, "state_computation")
    return lambda function: StateComputation(function, name, state)


def state_computation_multi(
    name: str, state: Callable[[], Any] | None = None
) -> Callable[[Callable[..., Any]], StateComputationMulti]:
    """As `state_computation`, of a function that returns a list of results."""
    _a_name(name, "state_computation_multi")
    return lambda function: StateComputationMulti(function, name, state)


def key_extractor(function: Callable[..., Any]) -> KeyExtractor:
    """Declare a function that gives a message's key."""
    return KeyExtractor(function)


def partition(function: Callable[..., Any]) -> KeyExtractor:
    """The older name of `key_extractor`."""
    return KeyExtractor(function)


def stage_of(
    call: Callable[..., Any], name: str, *, multi: bool, like: Any, state: StateClass[Any] | None = None
) -> Stage:
    """A stage for our pipelines. `like`: what it is called after (its module and name) where people read of it."""

    def with_message(message: Any) -> Any:
        return call(message)

    def with_state(message: Any, state: Any) -> Any:
        return call(message, state)

    function = with_message if state is None else with_state
    function.__module__ = getattr(like, "__module__", type(like).__module__)
    function.__name__ = str(getattr(like, "__name__", type(like).__name__))
    function.__qualname__ = str(getattr(like, "__qualname__", type(like).__qualname__))
    function.__doc__ = getattr(like, "__doc__", None)
    declared = declare(function, name=name, state=None if state is None else dict, key=None, multi=multi)
    return replace(declared, state=state)


def state_class(name: str, make: Callable[[], Any]) -> StateClass[Any]:
    """What makes states. `make`: a class, or anything that gives a state when called. Raises `WallarooParameterError`."""
    try:
        if isinstance(make, type):
            return StateClass(make)
        return StateClass(type(make()), make=make)
    except Exception as error:
        raise WallarooParameterError(f"state computation {name!r}: {error}") from error


def _a_name(name: Any, what: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise WallarooParameterError(f'@wallaroo.{what} wants a name first: @wallaroo.{what}(name="…")')
    return name


def _takes(function: Any, count: int, what: str) -> None:
    if not callable(function):
        raise WallarooParameterError(f"{what}: decorate a function, not {function!r:.80}")
    if error := misfit(function, count):
        wanted = "(data)" if count == 1 else "(data, state)"
        name = getattr(function, "__qualname__", function)
        raise WallarooParameterError(f"{what} must take {wanted}, and {name} does not: {error}")
