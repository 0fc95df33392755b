"""Checks whether a declared function accepts the arguments with which it will be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def misfit(function: Callable[..., Any], count: int) -> str:
    """Why a function can't be called with `count` positional arguments. Empty if it can, or if a builtin has no signature."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return ""
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        return str(error)
    return ""
