"""Formats requests and answers for people who read a trace."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib import resources
from typing import Any

from celery_partitions.store.scripts import LuaScript, script

#: Longer values are shortened.
MAX_CHARACTERS = 46


@cache
def _scripts() -> dict[bytes, LuaScript]:
    """The engine's scripts, by digest."""
    files = resources.files("celery_partitions.store").joinpath("lua").iterdir()
    scripts = [script(file.name.removesuffix(".lua")) for file in files if file.name.endswith(".lua")]
    return {one.digest.encode(): one for one in scripts}


def script_of(words: list[bytes]) -> LuaScript:
    """The script that an EVALSHA or EVAL runs."""
    digest = words[1] if words[0] == b"EVALSHA" else sha1(words[1], usedforsecurity=False).hexdigest().encode()
    return _scripts()[digest]


def format_request(value: Any) -> str:
    """The words of a request, or an answer."""
    if isinstance(value, list) and value and value[0] in (b"EVALSHA", b"EVAL"):
        keys = int(value[2])
        return f"{script_of(value).name}({value[3].decode()}: {' '.join(map(_short, value[3 + keys :]))})"
    if isinstance(value, list):
        return "[" + " ".join(map(format_request, value)) + "]"
    return _short(value)


def _short(value: Any) -> str:
    if not isinstance(value, bytes):
        return repr(value)
    text = value.decode("utf-8", "backslashreplace")
    if len(text) == 40 and all(character in "0123456789abcdef" for character in text):
        return text[:6]
    if value[:7] == b'{"body"':
        at = value.find(b'"id": ')
        return f"<message {value[at + 6 : at + 20].split(b',')[0].decode()}>"
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…"
