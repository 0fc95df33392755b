"""Aggregations: what a window does with its messages, and the checks of a declared one."""

from __future__ import annotations

import pickle
import sys
from typing import Any

from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.executors import is_async
from celery_partitions.model.restricted_pickle import load_and_list


class Aggregation:
    """What a window does with its messages. Subclass it. The object holds no data: it serves all keys and windows.

    An accumulator is stored in the key's state. It must be picklable, and its class must be at the top level of a module.
    """

    def name(self) -> str:
        """The stage's name."""
        return type(self).__name__

    def initial_accumulator(self) -> Any:
        """Return a new accumulator, without messages. Combining it with another must not change that one."""
        raise NotImplementedError

    def update(self, message: Any, accumulator: Any, /) -> Any:
        """Add a message to an accumulator: change it and return None, or return its replacement."""
        raise NotImplementedError

    def combine(self, first: Any, second: Any, /) -> Any:
        """Return one accumulator for the messages of both. `second` has the later messages. Only sliding windows call this."""
        raise NotImplementedError

    def output(self, key: str, accumulator: Any, /) -> Any:
        """Return the output of a closed window, or None for none. Called once for each window that has messages."""
        raise NotImplementedError


def looked_over(aggregation: Any, *, combines: bool) -> Any:
    """The aggregation as an object; it may be given as a class. `combines`: its windows call `combine`.

    Raises `DeclarationError` if the class cannot be created without arguments, or lacks a method.
    """
    made = aggregation
    if isinstance(aggregation, type):
        try:
            made = aggregation()
        except Exception as error:
            raise DeclarationError(
                f"aggregation {aggregation.__qualname__} cannot be created without arguments: {error}. "
                "Give its parameters default values, or pass an object to over()"
            ) from error
    wanted = ["initial_accumulator", "update", "output", *(["combine"] if combines else [])]
    missing = [name for name in wanted if not _has(made, name)]
    if missing:
        raise DeclarationError(f"aggregation {type(made).__qualname__} has no {' and no '.join(missing)}")
    coroutines = [name for name in wanted if is_async(getattr(made, name))]
    if coroutines:
        raise DeclarationError(
            f"aggregation {type(made).__qualname__}: {' and '.join(coroutines)} must be plain functions (def). Windows run in the partition loop; "
            "put an async stage before or after them"
        )
    return made


def name_of(aggregation: Any) -> str:
    """Its `name()`, or the name of its class. Raises `DeclarationError` for an invalid name."""
    method = getattr(aggregation, "name", None)
    name = method() if callable(method) else type(aggregation).__name__
    if not isinstance(name, str) or not name.strip():
        raise DeclarationError(f"aggregation {type(aggregation).__qualname__}: name() must return a non-empty str, not {name!r}")
    return name


def modules_of(aggregation: Any) -> tuple[str, ...]:
    """The modules of the aggregation and of its accumulator's classes. A stored accumulator may only name classes of these.

    Raises `DeclarationError` for an accumulator that cannot be created or pickled.
    """
    try:
        _, names = load_and_list(pickle.dumps(aggregation.initial_accumulator(), 5))
    except Exception as error:
        raise DeclarationError(
            f"aggregation {type(aggregation).__qualname__}: its initial accumulator cannot be created or pickled, and accumulators "
            f"are stored: {error}. Define the accumulator's class at the top level of a module"
        ) from error
    modules = {type(aggregation).__module__, *(module for module, _ in names)}
    return tuple(
        sorted(one for one in modules if one.partition(".")[0] not in sys.stdlib_module_names or one == "__main__")
    )


def _has(aggregation: Any, name: str) -> bool:
    inherited = getattr(type(aggregation), name, None) is getattr(Aggregation, name)
    return callable(getattr(aggregation, name, None)) and not inherited
