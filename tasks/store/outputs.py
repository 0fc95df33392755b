"""What a step's messages put out, as the Redis commands of its commit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, assert_never

from celery_partitions.model.keys import key_bytes
from celery_partitions.model.outcome import (
    DeleteResultKeys,
    Delivery,
    Effect,
    Emission,
    FollowUp,
    Hop,
    Push,
    Reply,
    Requeue,
    SetResultKey,
    Timer,
)
from celery_partitions.model.sinks import ListSink, StreamSink
from celery_partitions.store.names import Names

#: Lua's unpack fails above about 8 000 values; a command is cut before that.
MAX_WORDS = 6000


def split(head: list[Any], rest: Iterable[Any]) -> Iterator[list[Any]]:
    """A command with any number of arguments, as several that Lua can unpack. Pairs stay together."""
    words = list(rest)
    for start in range(0, len(words), MAX_WORDS):
        yield head + words[start : start + MAX_WORDS]


def delayed_entry(due: float, raw: bytes, commit_number: int, number: int) -> tuple[int, bytes]:
    """Score and member of a delayed message; `number`: which of the commit's it is.

    Never before its time: a timer that comes early has nothing to do. Members due in the same ms stand in the order of their bytes: digits are filled up, so that it is the order of sending.
    """
    return math.ceil(due * 1000), b"%016d.%08d:" % (commit_number, number) + raw


def commands_of_outputs(
    emitted: Sequence[Emission], names: Names, partition: str, commit_number: int, first_number: int
) -> list[list[Any]]:
    """The commands, those of one queue, list or stream in the order of the outputs. `first_number`: of the commit's next
    delayed message."""
    queues: dict[str, list[bytes]] = {}
    lists: dict[str, list[bytes]] = {}
    timers: list[Any] = []
    entries: list[list[Any]] = []
    for one in emitted:
        match one:
            case Hop(number, raw):
                queues.setdefault(names.queue(str(number)), []).append(raw)
            case Push(queue, raw):
                queues.setdefault(names.prefix + queue, []).append(raw)
            case Timer(due, raw):
                timers += delayed_entry(due, raw, commit_number, first_number + len(timers) // 2)
            case Delivery(ListSink(list=where), payload=payload):
                lists.setdefault(where, []).append(payload)
            case Delivery(StreamSink(stream=where, maxlen=maxlen), message_id, key, payload):
                bound = [] if maxlen is None else ["MAXLEN", "~", maxlen]
                fields = ["message", payload, "key", key_bytes(key), "id", message_id]
                entries.append(["XADD", where, *bound, "*", *fields])
            case Delivery():
                raise TypeError(f"no commands are known for {one.sink!r}")
            case _:
                assert_never(one)
    commands = [command for queue, raws in queues.items() for command in split(["LPUSH", queue], raws)]
    commands += [command for where, payloads in lists.items() for command in split(["LPUSH", where], payloads)]
    commands += split(["ZADD", names.delayed(partition)], timers)
    return commands + entries


def commands_of_effects(effects: Sequence[Effect], names: Names, partition: str) -> list[list[Any]]:
    """The commands of what goes with an outcome, in its order; follow-ups are run first to last, before anything younger."""
    commands: list[list[Any]] = []
    follow_ups: list[bytes] = []
    for one in effects:
        match one:
            case Reply(key, meta, seconds):
                commands.append(["REPLY", key, meta, seconds or 0])
            case Push(queue, raw):
                commands.append(["LPUSH", names.prefix + queue, raw])
            case SetResultKey(key, value, seconds):
                commands.append(["SET", key, value, *(["EX", seconds] if seconds else [])])
            case DeleteResultKeys(keys):
                commands += [["DEL", key] for key in keys]
            case FollowUp(raw):
                follow_ups.append(raw)
            case Requeue(raw):
                commands.append(["LPUSH", names.queue(partition), raw])
            case _:
                assert_never(one)
    commands += split(["RPUSH", names.queue(partition)], reversed(follow_ups))
    return commands
