"""Results as commands of a commit: Celery's result of a message, and a message's part of a chord.

`REPLY` and `CHORD` are words of `commit.lua`, no commands of Redis. What they write is what Celery 5.7's Redis backend writes, so
that any Celery process reads it, and so that the members of a chord may run in stock workers and here.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import msgspec

#: The task name of the message that a commit pushes when its chord part was the last one.
START_CHORD = "partitions.start_chord"


def reply(key: bytes, meta: bytes | str, expires_seconds: int | None) -> list[Any]:
    """The result of a message: stored, unless a success is stored already, and published to whoever waits.

    `expires_seconds`: None or 0 keeps it for ever. Source: `RedisBackend._set` and `BaseKeyValueStoreBackend._store_result`.
    """
    return ["REPLY", key, meta, expires_seconds or 0]


@dataclass(frozen=True, slots=True)
class ChordKeys:
    """The keys of a chord, as Celery names them, by what each holds."""

    results: bytes
    added: bytes
    size: bytes
    counted: bytes
    group: bytes
    claim: bytes


def chord_part(
    keys: ChordKeys,
    *,
    member: str,
    result: bytes | str,
    ordered: bool,
    score: Any,
    expires_seconds: int,
    group_expires_seconds: int,
    token: str,
    queue: str,
    start: bytes,
) -> list[Any]:
    """A message's part of its chord: counted once, and with the last one the chord's start is pushed onto `queue`, once.

    `member`: the message's id. `score`: its place in the group. `token`: who claims the start of the body; Celery's workers leave a
    chord that is claimed. `start`: the message that `start_of_chord` made. Source: `CHORD_PART_RETURN_LUA` of `celery.backends.redis`.
    """
    return [
        "CHORD",
        keys.results,
        keys.added,
        keys.size,
        keys.counted,
        keys.group,
        keys.claim,
        queue,
        member,
        result,
        int(ordered),
        str(score),
        expires_seconds,
        group_expires_seconds,
        token,
        start,
    ]


def start_of_chord(message_id: str, request: dict[str, Any], queue_name: str) -> bytes:
    """The message that has a partition worker start a chord's body; `request`: the last part's, as far as that needs it."""
    body = msgspec.json.encode([[], {"request": request}, {}])
    return msgspec.json.encode(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": START_CHORD,
                "id": message_id,
                "root_id": request.get("root_id"),
                "parent_id": request.get("id"),
                "group": None,
                "ignore_result": True,
            },
            "properties": {
                "correlation_id": message_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue_name},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": message_id,
            },
        }
    )
