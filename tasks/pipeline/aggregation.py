"""Aggregations: what a window does with its messages, and what one must be to be taken."""

from __future__ import annotations

import pickle
import sys
from typing import Any

from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.restricted_pickle import load_and_list


class Aggregation:
    """What a window does with its messages. It holds nothing itself: one object serves all keys and windows.

    An accumulator is a part of the key's state: made of what pickle takes, defined at a module's top level.
    """

    def name(self) -> str:
        """The stage's name."""
        return type(self).__name__

    def initial_accumulator(self) -> Any:
        """A new accumulator, of no messages. Combined with another it changes nothing."""
        raise NotImplementedError

    def update(self, message: Any, accumulator: Any, /) -> Any:
        """Put a message into an accumulator: change it and return None, or return what takes its place."""
        raise NotImplementedError

    def combine(self, first: Any, second: Any, /) -> Any:
        """One accumulator of the messages of both; `second`'s came later. Only sliding windows call it."""
        raise NotImplementedError

    def output(self, key: str, accumulator: Any, /) -> Any:
        """What a closed window gives, or None for nothing. Called once for each window that has messages."""
        raise NotImplementedError


def looked_over(aggregation: Any, *, combines: bool) -> Any:
    """The object of an aggregation, given as the class or as the object. `combines`: its windows call `combine`.

    Raises `DeclarationError` when it can't be made with no arguments, or has not all the methods.
    """
    made = aggregation
    if isinstance(aggregation, type):
        try:
            made = aggregation()
        except Exception as error:
            raise DeclarationError(
                f"aggregation {aggregation.__qualname__} can't be made with no arguments: {error}. "
                "Give its parameters defaults, or give over() the object"
            ) from error
    wanted = ["initial_accumulator", "update", "output", *(["combine"] if combines else [])]
    missing = [name for name in wanted if not _has(made, name)]
    if missing:
        raise DeclarationError(f"aggregation {type(made).__qualname__} has no {' and no '.join(missing)}")
    return made


def name_of(aggregation: Any) -> str:
    """What it is called; by its class, if it has no `name`. Raises `DeclarationError` for what is no name."""
    method = getattr(aggregation, "name", None)
    name = method() if callable(method) else type(aggregation).__name__
    if not isinstance(name, str) or not name.strip():
        raise DeclarationError(f"aggregation {type(aggregation).__qualname__}: name() gives {name!r}, which is no name")
    return name


def modules_of(aggregation: Any) -> tuple[str, ...]:
    """The modules of the aggregation and of its accumulator's classes: what a stored accumulator may name.

    Raises `DeclarationError` for an accumulator that can't be made or pickled.
    """
    try:
        _, names = load_and_list(pickle.dumps(aggregation.initial_accumulator(), 5))
    except Exception as error:
        raise DeclarationError(
            f"aggregation {type(aggregation).__qualname__}: an accumulator is stored with its key, and the initial one "
            f"can't be made, or can't be pickled: {error}. Define its class at a module's top level"
        ) from error
    modules = {type(aggregation).__module__, *(module for module, _ in names)}
    return tuple(
        sorted(one for one in modules if one.partition(".")[0] not in sys.stdlib_module_names or one == "__main__")
    )


def _has(aggregation: Any, name: str) -> bool:
    inherited = getattr(type(aggregation), name, None) is getattr(Aggregation, name)
    return callable(getattr(aggregation, name, None)) and not inherited
