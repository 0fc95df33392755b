"""Requests and answers as a person reads them in a trace."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from tasks.store.scripts import script

#: Longer values are cut.
MOST_CHARACTERS = 46


@cache
def _names() -> dict[bytes, str]:
    """Digest → name of each of the engine's scripts."""
    files = resources.files("tasks.store").joinpath("lua").iterdir()
    names = [file.name.removesuffix(".lua") for file in files if file.name.endswith(".lua")]
    return {script(name).digest.encode(): name for name in names}


def tell_request(value: Any) -> str:
    """A request's words, or an answer."""
    if isinstance(value, list) and value and value[0] in (b"EVALSHA", b"EVAL"):
        name = _names().get(value[1], "script")
        keys = int(value[2])
        return f"{name}({value[3].decode()}: {' '.join(map(_short, value[3 + keys :]))})"
    if isinstance(value, list):
        return "[" + " ".join(map(tell_request, value)) + "]"
    return _short(value)


def _short(value: Any) -> str:
    if not isinstance(value, bytes):
        return repr(value)
    text = value.decode("utf-8", "backslashreplace")
    if len(text) == 40 and all(letter in "0123456789abcdef" for letter in text):
        return text[:6]
    if value[:7] == b'{"body"':
        at = value.find(b'"id": ')
        return f"<message {value[at + 6 : at + 20].split(b',')[0].decode()}>"
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "…"
