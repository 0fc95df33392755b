"""Parsers of settings. Each takes the text of one variable and returns its value, or raises a `ValueError` that says what was expected."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

#: With more queues than this, the blocking connections of one worker would fill a small server.
MAX_PARTITIONS = 4096
#: Three years in seconds. No system call's timeout overflows with it.
MAX_SECONDS = 100_000_000
#: A dead letter holds its message in base64, and Redis takes values up to 512 MB.
MAX_MESSAGE_BYTES = 256_000_000


def parse_switch(text: str) -> bool:
    match text.lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
        case _:
            raise ValueError("expected 1 or 0")


def parse_number(text: str, *, zero: bool = True) -> float:
    """A number from zero."""
    try:
        number = float(text)
    except ValueError:
        raise ValueError("expected a number") from None
    if not 0 <= number <= MAX_SECONDS or not (zero or number):
        raise ValueError(f"expected a number {'from 0 to' if zero else 'greater than 0, at most'} {MAX_SECONDS:,}")
    return number


#: A number greater than zero.
parse_seconds = partial(parse_number, zero=False)


def parse_integer(text: str, least: int, limit: int | None = None) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError("expected an integer") from None
    if limit is not None and not least <= number <= limit:
        raise ValueError(f"expected an integer from {least} to {limit}")
    if number < least:
        raise ValueError(f"expected an integer, at least {least}")
    return number


parse_count = partial(parse_integer, least=1)
parse_count_or_zero = partial(parse_integer, least=0)
parse_port = partial(parse_integer, least=0, limit=65535)
parse_partitions = partial(parse_integer, least=1, limit=MAX_PARTITIONS)
parse_message_bytes = partial(parse_integer, least=1, limit=MAX_MESSAGE_BYTES)


def one_of(*choices: str) -> Callable[[str], str]:
    expected = f"expected {', '.join(choices[:-1])} or {choices[-1]}"

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(expected)
        return text

    return parse


def parse_group(text: str) -> str:
    if not all(c.isalnum() or c in "-_" for c in text):
        raise ValueError("expected letters, digits, - and _ only")
    return text


def _words(text: str) -> tuple[str, ...]:
    """The words that commas separate."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_hosts(text: str) -> tuple[str, ...]:
    hosts = _words(text.lower())
    for host in hosts:
        if not all(c.isalnum() or c in "-._:" for c in host) or (host.count(":") == 1):
            raise ValueError(f"expected names without http:// and without a port, for example flower.example.com, not {host!r}")
    return hosts


def parse_queues(text: str) -> tuple[str, ...]:
    names = _words(text)
    for name in names:
        if name != "*" and not all(c.isalnum() or c in "-_.:{}@/" for c in name):
            raise ValueError(f"{name!r} is not the name of a queue: use letters, digits and - _ . : {{ }} @ /, or * for any queue")
    return names


def parse_file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError("the file does not exist")
    return text


def parse_state_modules(text: str) -> tuple[str, ...]:
    entries = _words(text)
    for entry in entries:
        if entry == "*":
            continue
        module, colon, name = entry.removesuffix(".*").partition(":")
        if not all(word.isidentifier() for word in [*module.split("."), *(name.split(".") if colon else ())]):
            raise ValueError(f"expected a module, package.*, module:name or *, not {entry!r}")
    return entries


def parse_words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def parse_signing_keys(text: str) -> tuple[bytes, ...]:
    keys = tuple(map(str.encode, _words(text)))
    if any(len(key) < 16 for key in keys):
        raise ValueError("each signing key needs at least 16 characters (openssl rand -hex 32 makes one)")
    return keys


def as_text(value: Any) -> str:
    """A value of an app's configuration, as it would be written in the environment; "" for None."""
    match value:
        case None:
            return ""
        case str():
            return value.strip()
        case bytes():
            return value.decode("utf-8", "backslashreplace")
        case list() | tuple() | set() | frozenset():
            return ",".join(map(as_text, value))
        case _:
            return str(value)
