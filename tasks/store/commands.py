"""The Redis commands of a commit: made of a step's outcome, and passed to a script as its operands.

As operands, each key goes into KEYS once, and the commands name it by its number there. A server can only tell what a script touches
by its KEYS: a cluster runs the script where those keys are, and an ACL checks them before the script begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, assert_never

import redis

from celery_partitions.model.keys import key_bytes
from celery_partitions.model.outcome import (
    DeleteResultKeys,
    Delivery,
    Effect,
    Emission,
    FollowUp,
    Hop,
    Outcome,
    Push,
    Reply,
    Requeue,
    SetResultKey,
    Timer,
)
from celery_partitions.model.sinks import ListSink, StreamSink
from celery_partitions.store.dead_letters import dead_letter_in_place, dead_letter_of, dump_dead_letter
from celery_partitions.store.names import Names
from celery_partitions.store.parked_keys import ParkedKeyRecord, park
from celery_partitions.store.scripts import script

#: Lua's unpack fails above about 8 000 values; a command is cut before that.
MAX_WORDS = 6000
#: How many operands of a command are keys, where it is not one. The scripts have the same table.
KEYS_OF = {"RENAME": 2}


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


def commands_of(
    outcome: Outcome,
    names: Names,
    partition: str,
    commit_number: int,
    now: float,
    parked: Mapping[str, ParkedKeyRecord] = MappingProxyType({}),
) -> list[list[Any]]:
    """The Redis commands that are an outcome's effects. `commit_number` makes dead letters' ids; `now`: server's seconds.

    `parked`: what is to be written of the outcome's parked keys.
    """
    commands: list[list[Any]] = []
    for computation, states in outcome.states.items():
        fields = (word for key, state in states.items() for word in (key_bytes(key), state))
        commands += split(["HSET", names.states(partition, computation)], fields)
    for number, raws in outcome.forwarded.items():
        commands += split(["LPUSH", names.queue(str(number))], raws)
    for key, raws in outcome.mailed.items():
        commands += split(["LPUSH", names.mailbox(partition, key)], raws)
    if outcome.delayed:
        entries = (
            word
            for number, delayed in enumerate(outcome.delayed)
            for word in delayed_entry(delayed.due, delayed.raw, commit_number, number)
        )
        commands += split(["ZADD", names.delayed(partition)], entries)
    if outcome.emitted:
        commands += commands_of_outputs(outcome.emitted, names, partition, commit_number, len(outcome.delayed))
    commands += [park(names, partition, key, record) for key, record in parked.items()]
    dead_letters = [
        dead_letter_of(dead_letter_item, f"{partition}-{commit_number}-{number}", partition, attempts, now)
        for number, (dead_letter_item, attempts) in enumerate(outcome.dead)
    ]
    for key, (failure, _, used_up) in outcome.parked.items():
        dead_letter_id = parked[key].dead_letter
        if used_up and dead_letter_id is not None:
            dead_letters.append(dead_letter_in_place(failure, dead_letter_id, partition, now))
    dead_lettered = (word for dead_letter in dead_letters for word in (dead_letter.id, dump_dead_letter(dead_letter)))
    commands += split(["HSET", names.dead(partition)], dead_lettered)
    commands += [
        ["HSET", names.dead_raw(partition), dead_letter.id, dead_letter_item.raw]
        for dead_letter, (dead_letter_item, _) in zip(dead_letters, outcome.dead, strict=False)  # those in place come after
        if dead_letter.apart
    ]
    if outcome.pause:
        commands.append(["HSET", names.meta(partition), "paused", 1])
    if outcome.effects:
        commands += commands_of_effects(outcome.effects, names, partition)
    counts = {
        "processed": len(outcome.done),
        "emitted": len(outcome.emitted),
        "failed": len(outcome.failures),
        "dead": len(outcome.dead),
        "forwarded": sum(map(len, outcome.forwarded.values())),
        "delayed": len(outcome.delayed),
        "skipped": sum(one.why != "duplicate" for one in outcome.skipped),
        "deduplicated": sum(one.why == "duplicate" for one in outcome.skipped),
    }
    commands += [["HINCRBY", names.meta(partition), name, count] for name, count in counts.items() if count]
    return commands


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


def keys_in(command: Sequence[Any]) -> Sequence[Any]:
    """The keys that a command touches."""
    return command[1 : 1 + KEYS_OF.get(command[0], 1)]


def declare(commands: Iterable[Sequence[Any]], keys: list[Any], words: list[Any]) -> None:
    """Append the commands to a script's ARGV, `words`, and their keys to its KEYS. Each command is preceded by how many words it has."""
    numbers = {key: number for number, key in enumerate(keys, 1)}
    for command in commands:
        words += (len(command), command[0])
        first = 1 + KEYS_OF.get(command[0], 1)
        for key in command[1:first]:
            number = numbers.get(key)
            if number is None:
                keys.append(key)
                number = numbers[key] = len(keys)
            words.append(number)
        words += command[first:]


def refused_keys(client: redis.Redis, commands: Iterable[Sequence[Any]]) -> set[Any]:
    """The keys of the commands that this user may not touch in a script. Asked after the server refused a call for one of its KEYS."""
    refused = set()
    for key in dict.fromkeys(key for command in commands for key in keys_in(command)):
        try:
            script("may_touch").run(client, [key], [])
        except redis.exceptions.NoPermissionError:
            refused.add(key)
    return refused
