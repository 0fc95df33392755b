"""Text from outside, on its way to a log or a terminal: it begins no new line, and moves no cursor."""

from __future__ import annotations


def escape(text: str) -> str:
    """The text on one line: line breaks, control characters and lone surrogates are written as `\\n`, `\\x1b`, `\\ud800`."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "backslashreplace").decode() for one in text
    )


def escape_lines(text: str) -> str:
    """The same for a text that may have several lines, as a traceback has."""
    return text if text.isprintable() else "\n".join(escape(line.expandtabs()) for line in text.split("\n"))
