"""Whether a function that a user declares can be called as it will be."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def misfit(function: Callable[..., Any], count: int) -> str:
    """Why a function can't be called with `count` arguments by place; empty when it can, or when a builtin does not say."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return ""
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        return str(error)
    return ""
