"""Removes message contents from validation errors, because the errors are logged. The field's path stays."""

from __future__ import annotations

import re

#: msgspec's errors contain the path and the expected type. Two of them also contain the value.
_FOUND = re.compile(r"(Invalid (?:enum )?value) (?:.*(?= - at )|.*$)", re.DOTALL)


def unquoted(error: Exception) -> str:
    """The text of a msgspec error, without the value."""
    return _FOUND.sub(r"\1", str(error))


def unquoted_of_pydantic(error: ValueError) -> str:
    """The text of a pydantic error on one line, without the values. For another ValueError, which user code raised, its own text."""
    if not hasattr(error, "errors"):
        return str(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{one['msg']} - at {'.'.join(['$', *map(str, one['loc'])])}" for one in found)
