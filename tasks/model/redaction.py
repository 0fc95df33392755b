"""What is wrong with a message, and the field's path, without what is in the message: the text is logged."""

from __future__ import annotations

import re

#: msgspec's errors tell where and what is wanted; two of them also what was found.
_FOUND = re.compile(r"(Invalid (?:enum )?value) (?:.*(?= - at )|.*$)", re.DOTALL)


def unquoted(error: Exception) -> str:
    """Of an error of msgspec."""
    return _FOUND.sub(r"\1", str(error))


def unquoted_of_pydantic(error: ValueError) -> str:
    """Of pydantic's error, in one line; another ValueError is told by the user's own words."""
    if not hasattr(error, "errors"):
        return str(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{one['msg']} - at {'.'.join(['$', *map(str, one['loc'])])}" for one in found)
