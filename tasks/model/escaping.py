"""Escapes text from outside for logs and terminals, so that it can't start a new line or move the cursor."""

from __future__ import annotations


def escape(text: str) -> str:
    """The text on one line. Line breaks, control characters and lone surrogates become `\\n`, `\\x1b`, `\\ud800`."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "backslashreplace").decode() for one in text
    )


def escape_lines(text: str) -> str:
    """The same for a text of several lines, such as a traceback. Keeps the line breaks."""
    return text if text.isprintable() else "\n".join(escape(line.expandtabs()) for line in text.split("\n"))
