"""A computation that does as its messages say; the steps' tests are written in these words."""

from __future__ import annotations

import sys
from typing import Any

from celery_partitions.model.computation import Context, declare
from tests.model.build import raw_message


class Unsayable(Exception):
    def __str__(self) -> str:
        raise AttributeError("no text")


class PicklesOnly(Exception):
    """Pickled, it can't be read back."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__("both")


class Log:
    entries: list[Any] = []  # noqa: RUF012


#: What computations did besides their state; emptied by who looks at it.
seen: list[Any] = []


def apply(message: dict[str, Any], state: Log) -> None:
    """`n` goes into the state; then what `do` says."""
    state.entries.append(message["n"])
    match message.get("do"):
        case "raise":
            raise ValueError(f"no {message['n']}")
        case "exit":
            sys.exit(1)
        case "interrupt":
            raise KeyboardInterrupt
        case "unsayable":
            raise Unsayable
        case "surrogate":
            raise ValueError("\ud800")
        case "unpicklable":
            state.entries[-1] = lambda: None
        case "pickles only":
            state.entries[-1] = PicklesOnly(1, 2)
        case "recurse":
            apply(message, state)
        case "spoil message":
            message.clear()
            message["n"] = "spoiled"
        case "once":
            seen.append(message["n"])
            if seen.count(message["n"]) > 1:
                raise RuntimeError("only once")


def apply_in_context(message: dict[str, Any], state: Log, context: Context) -> None:
    """Like `apply`; "flaky" raises at its first try."""
    seen.append(context)
    apply(message, state)
    if message.get("do") == "flaky" and context.attempt == 1:
        raise ValueError("flaky")


def note(message: dict[str, Any], context: Context) -> None:
    seen.append((message["n"], context.attempt))
    if message.get("do") == "raise":
        raise ValueError("no note")


def _key(message: dict[str, Any]) -> Any:
    return message["key"]


LOG = declare(apply, name="log", state=Log, key=_key)
SECOND = declare(apply, name="second", state=Log, key=_key)
WITH_CONTEXT = declare(apply_in_context, name="with context", state=Log, key=_key)
STATELESS = declare(note, name="stateless", state=None, key=_key)


def say_to(name: str, n: Any, do: str = "", key: str = "k", **headers: Any) -> bytes:
    """The raw message that tells the computation `name` to log `n` for `key`, and to do that."""
    return raw_message(name, {"n": n, "do": do, "key": key}, f"id-{n}", **headers)


def log(n: Any, do: str = "", key: str = "k") -> bytes:
    return say_to("log", n, do, key)
