"""Records outside of the group when calls start and end: each call appends two lines to a file. And what these records must show.

All processes of a run append to one file, so the order of its lines is the order in which the calls started and ended.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from celery_partitions import Context
from tests.chaos.acts import Act

#: The variable with the file's path. Without it nothing is recorded.
PATH = "CHAOS_RECORDS"
#: A fault may still have an effect after this time: a lease that ends, another one, and a busy machine.
EFFECT_SECONDS = 15.0


@cache
def _file() -> tuple[int, str]:
    """The file, and a name for this process. A process that replaces itself keeps its number, and gets another name."""
    return os.open(os.environ[PATH], os.O_WRONLY | os.O_APPEND | os.O_CREAT), secrets.token_hex(4)


#: Two threads may make the first call.
_first = threading.Lock()


def _write(*words: object) -> None:
    with _first:
        file, process = _file()
    os.write(file, ("\t".join(map(str, (*words, process, time.time()))) + "\n").encode())


@contextmanager
def recorded(of: str, act: Act, context: Context) -> Iterator[None]:
    """Around a call of the computation `of`."""
    words = of, act.key, act.number, context.attempt, context.message_id
    _write("begin", *words)
    try:
        yield
    finally:
        _write("end", *words)


@dataclass(slots=True, eq=False)
class Call:
    """One call, as the recorder saw it. Times in seconds since the epoch."""

    of: str
    key: str
    number: int
    attempt: int
    message_id: str
    process: str
    began: float
    #: None: its process ended before it did.
    ended: float | None = None
    #: Calls of the same key that had not ended when it began.
    meanwhile: list[Call] = field(default_factory=list)


def read_records(path: Path) -> list[Call]:
    """All calls, in the order in which they began."""
    calls: list[Call] = []
    running: dict[str, list[Call]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        what, of, key, number, attempt, message_id, process, at = line.split("\t")
        of_key = running.setdefault(key, [])
        if what == "begin":
            calls.append(Call(of, key, int(number), int(attempt), message_id, process, float(at), meanwhile=list(of_key)))
            of_key.append(calls[-1])
        else:
            ended = next(one for one in reversed(of_key) if (one.number, one.process) == (int(number), process))
            ended.ended = float(at)
            of_key.remove(ended)
    return calls


def judge_calls(
    calls: Iterable[Call], wanted: Mapping[str, Sequence[int]], given_up: Container[int], faults: Sequence[tuple[float, float]]
) -> Iterator[tuple[str, str]]:
    """What is wrong: kind and description. `wanted`: key → the numbers that were sent to it, in order. `given_up`: numbers of dead letters.
    `faults`: when each began and ended."""
    by_key: dict[str, list[Call]] = {}
    for call in calls:
        by_key.setdefault(call.key, []).append(call)
    for key, of_key in by_key.items():
        yield from (("overlap", text) for text in _overlaps(of_key, given_up))
        yield from (("start", text) for text in _starts(of_key, wanted.get(key, ())))
        yield from (("repeat", text) for text in _repeats(of_key, faults))


def _overlaps(calls: Sequence[Call], given_up: Container[int]) -> Iterator[str]:
    """A worker never runs two calls of a key at once. Another worker may start one when the first has died, or has lost its lease and does not
    know it yet: then one of the two does again what the other has begun."""
    for place, call in enumerate(calls):
        for other in call.meanwhile:
            again = any(
                (one.number == call.number and one.process != call.process) or (one.number == other.number and one.process != other.process)
                for one in calls[: place + 1]
            )
            if other.process == call.process or not (again or other.number in given_up):
                yield f"key {call.key!r}: {call.number} began while {other.number} ran, in {_place(call, other)}"


def _place(call: Call, other: Call) -> str:
    return "the same process" if call.process == other.process else "another process"


def _starts(calls: Sequence[Call], wanted: Sequence[int]) -> Iterator[str]:
    """Messages begin for the first time in the order in which they were sent."""
    begun = list(dict.fromkeys(call.number for call in calls))
    places = {number: place for place, number in enumerate(wanted)}
    if unknown := [number for number in begun if number not in places]:
        yield f"key {calls[0].key!r}: {unknown[0]} was called, and not sent to it"
    elif begun != sorted(begun, key=places.__getitem__):
        yield f"key {calls[0].key!r}: the calls began in the order {begun}, and were sent as {[n for n in wanted if n in begun]}"


def _repeats(calls: Sequence[Call], faults: Sequence[tuple[float, float]]) -> Iterator[str]:
    """The same attempt at the same message is repeated only after a fault, and under the same id."""
    before: dict[tuple[int, int], Call] = {}
    ids: dict[int, str] = {}
    for call in calls:
        if ids.setdefault(call.number, call.message_id) != call.message_id:
            yield f"message {call.number} was called under the ids {ids[call.number]!r} and {call.message_id!r}"
        first = before.get((call.number, call.attempt))
        before[call.number, call.attempt] = call
        if first is None or first.ended is None or first.process != call.process:
            continue
        if not any(began <= call.began and first.began <= ended + EFFECT_SECONDS for began, ended in faults):
            yield f"key {call.key!r}: attempt {call.attempt} at {call.number} was repeated without a fault"
