"""A computation that does what its messages say. The tests of the step use it."""

from __future__ import annotations

import sys
from typing import Any

from celery_partitions.model.computation import Context
from celery_partitions.model.declaration import declare
from tests.model.build import raw_message


class WithoutText(Exception):
    def __str__(self) -> str:
        raise AttributeError("no text")


class PicklesOnly(Exception):
    """It can be pickled, but not unpickled."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__("both")


class Log:
    entries: list[Any] = []  # noqa: RUF012


#: What computations did besides changing their state. Each test empties it.
seen: list[Any] = []


def apply(message: dict[str, Any], state: Log) -> None:
    """Append `n` to the state, then do what `do` says."""
    state.entries.append(message["n"])
    match message.get("do"):
        case "raise":
            raise ValueError(f"no {message['n']}")
        case "exit":
            sys.exit(1)
        case "interrupt":
            raise KeyboardInterrupt
        case "without text":
            raise WithoutText
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
    """Like `apply`, but "flaky" raises at the first attempt."""
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
#: Its failed messages hold up no other computation of their key.
ALONE = declare(apply_in_context, name="alone", state=Log, key=_key, holds="computation")
STATELESS = declare(note, name="stateless", state=None, key=_key)


def message_to(name: str, n: Any, do: str = "", key: str = "k", **headers: Any) -> bytes:
    """The raw message that makes the computation `name` log `n` for `key`, and then do `do`."""
    return raw_message(name, {"n": n, "do": do, "key": key}, f"id-{n}", **headers)


def log(n: Any, do: str = "", key: str = "k") -> bytes:
    return message_to("log", n, do, key)
