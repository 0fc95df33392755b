"""Dead letters as they lie in Redis: messages that were not taken, kept until an operator acts."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import msgspec

from celery_partitions.model.errors import encodable
from celery_partitions.model.keys import shown_key
from celery_partitions.model.outcome import Failure
from celery_partitions.model.reading import Broken
from celery_partitions.store.names import Names

#: A longer message is kept apart from its dead letter, as it is: in base64 the longest that a server takes (512 MB) would be
#: one that it does not take, and could never leave its queue.
APART_BYTES = 1_000_000

dump_letter = msgspec.json.Encoder().encode


class DeadLetter(msgspec.Struct):
    """A message that was not taken, kept until an operator acts. `raw` is the message itself, base64 (see `apart`)."""

    id: str
    unit: str
    reason: str
    error: str
    trace: str
    task: str | None
    message_id: str | None
    key: str | None
    attempts: int
    died_at: float
    raw: str
    #: The message is not gone from its place: its key is parked behind it. A retry is in its place.
    in_place: bool = False
    #: The message is kept apart (`names.dead_raw`), because it is long; `raw` is empty.
    apart: bool = False


def letter_of(broken: Broken, letter_id: str, unit: str, attempts: int, now: float) -> DeadLetter:
    """Of a message that leaves its queue. `now`: seconds since the epoch, by the server's clock."""
    apart = len(broken.raw) > APART_BYTES
    return DeadLetter(
        id=letter_id,
        unit=unit,
        reason=broken.reason,
        error=encodable(broken.error),
        trace=encodable(broken.trace),
        task=None if broken.task is None else encodable(broken.task),
        message_id=None if broken.message_id is None else encodable(broken.message_id),
        key=None if broken.key is None else shown_key(broken.key),
        attempts=attempts,
        died_at=now,
        raw="" if apart else base64.b64encode(broken.raw).decode(),
        apart=apart,
    )


def letter_commands(names: Names, unit: str, dead: Iterable[tuple[str, Broken]], now: float) -> list[list[Any]]:
    """The commands that write dead letters, each under an id, of what was tried by no worker."""
    commands: list[list[Any]] = []
    for letter_id, broken in dead:
        letter = letter_of(broken, letter_id, unit, 0, now)
        commands.append(["HSET", names.dead(unit), letter.id, dump_letter(letter)])
        if letter.apart:
            commands.append(["HSET", names.dead_raw(unit), letter.id, broken.raw])
    if commands:
        commands.append(["HINCRBY", names.facts(unit), "dead", sum(command[1] == names.dead(unit) for command in commands)])
    return commands


def letter_in_place(failure: Failure, letter_id: str, unit: str, now: float) -> DeadLetter:
    """Of a message whose retries are used up, and which keeps its place."""
    item = failure.item
    headers = item.envelope.headers
    reason = "computation-failed"
    broken = Broken(item.raw, reason, failure.error, failure.trace, headers.task, headers.id, item.key)
    letter = letter_of(broken, letter_id, unit, failure.attempt, now)
    letter.in_place = True
    letter.apart, letter.raw = False, base64.b64encode(item.raw).decode()  # it was read, so it is not that long
    return letter
