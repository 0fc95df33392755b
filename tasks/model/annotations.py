"""What a function's parameter is annotated with, also through decorators and strings."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable
from functools import partial
from typing import Any

from celery_partitions.model.errors import DeclarationError


def plain_function(function: Any) -> Any:
    """The function inside a `staticmethod`, a `partial`, a decorator that uses `functools.wraps`, or an object with `__call__`."""
    while True:
        match function:
            case types.FunctionType() if not hasattr(function, "__wrapped__"):
                return function
            case types.MethodType() | staticmethod():
                function = function.__func__
            case partial():
                function = function.func
            case type():
                return function
            case _:
                inner = getattr(function, "__wrapped__", None) or getattr(type(function), "__call__", None)  # noqa: B004
                if not isinstance(inner, types.FunctionType | types.MethodType | staticmethod | partial):
                    return function
                function = inner


def _annotations(function: Any) -> dict[str, Any]:
    """A function's annotations as they are written. One that names what exists for type checkers only does no harm."""
    try:
        return dict(getattr(function, "__annotations__", {}))
    except NameError:  # since Python 3.14 they are evaluated when they are asked for
        library: Any = importlib.import_module("annotationlib")
        return dict(library.get_annotations(function, format=library.Format.FORWARDREF))


def first_annotation(function: Callable[..., Any], parameter: str) -> Any:
    """The annotation of a function's parameter, with strings resolved. `inspect.Parameter.empty` if there is none."""
    target = plain_function(function)
    written = _annotations(target).get(parameter, inspect.Parameter.empty)
    if written is inspect.Parameter.empty:
        return written
    # This one alone: another parameter's may be imported for type checkers only.
    alone: Any = types.SimpleNamespace(__annotations__={parameter: written})
    try:
        return typing.get_type_hints(alone, getattr(target, "__globals__", {}), include_extras=True)[parameter]
    except NameError as error:
        raise DeclarationError(
            f"the annotation of {parameter} can't be resolved: {error}. Define the message class at the top level of a module"
        ) from error
