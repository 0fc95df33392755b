"""Dead letters as they are stored in Redis."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import msgspec

from celery_partitions.model.errors import encodable
from celery_partitions.model.items import DeadLetterItem
from celery_partitions.model.keys import shown_key
from celery_partitions.store.names import Names

#: A longer message is stored apart from its dead letter, as raw bytes. In base64, a message near the server's limit (512 MB) would exceed
#: that limit, and the message could never leave its queue.
APART_BYTES = 1_000_000

dump_dead_letter = msgspec.json.Encoder().encode


class DeadLetter(msgspec.Struct):
    """A message that was given up, kept until an operator acts. `raw` is the message in base64 (see `apart`)."""

    id: str
    partition: str
    reason: str
    error: str
    trace: str
    task: str | None
    message_id: str | None
    key: str | None
    attempts: int
    died_at: float
    raw: str
    #: The message is still first in its key's mailbox, and the key is parked. A retry runs it there.
    in_place: bool = False
    #: The message is too long for this record: it is in `names.dead_raw`, and `raw` is empty.
    apart: bool = False


def dead_letter_of(dead_letter_item: DeadLetterItem, dead_letter_id: str, partition: str, attempts: int, now: float, in_place: bool = False) -> DeadLetter:
    """`now`: the server's time, in seconds since the epoch. `in_place`: the message keeps its place (then it was decoded, so it is
    not too long)."""
    apart = len(dead_letter_item.raw) > APART_BYTES and not in_place
    return DeadLetter(
        id=dead_letter_id,
        partition=partition,
        reason=dead_letter_item.reason,
        error=encodable(dead_letter_item.error),
        trace=encodable(dead_letter_item.trace),
        task=None if dead_letter_item.task is None else encodable(dead_letter_item.task),
        message_id=None if dead_letter_item.message_id is None else encodable(dead_letter_item.message_id),
        key=None if dead_letter_item.key is None else shown_key(dead_letter_item.key),
        attempts=attempts,
        died_at=now,
        raw="" if apart else base64.b64encode(dead_letter_item.raw).decode(),
        in_place=in_place,
        apart=apart,
    )


def dead_letter_commands(names: Names, partition: str, dead: Iterable[tuple[str, DeadLetterItem]], now: float) -> list[list[Any]]:
    """The commands that write dead letters, each under its id, for input that no worker has tried."""
    commands: list[list[Any]] = []
    for dead_letter_id, dead_letter_item in dead:
        dead_letter = dead_letter_of(dead_letter_item, dead_letter_id, partition, 0, now)
        commands.append(["HSET", names.dead(partition), dead_letter.id, dump_dead_letter(dead_letter)])
        if dead_letter.apart:
            commands.append(["HSET", names.dead_raw(partition), dead_letter.id, dead_letter_item.raw])
    if commands:
        commands.append(["HINCRBY", names.meta(partition), "dead", sum(command[1] == names.dead(partition) for command in commands)])
    return commands
