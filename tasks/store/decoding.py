"""Decodes JSON that another version of this package, or somebody else, may have written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")


def decoded(decode: Callable[[bytes], T], text: bytes) -> T | None:
    """The value; None if the text cannot be decoded."""
    try:
        return decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
