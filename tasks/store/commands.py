"""Converts a commit's effects into Redis commands, and the commands into a script's KEYS and ARGV. No other module does.

Each key goes into KEYS once; commands refer to it by its number there. A server knows only from KEYS what a script touches: a cluster
runs the script where those keys are, and an ACL checks them before the script begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, assert_never

import redis

from celery_partitions.model.deduplication import normalize_id
from celery_partitions.model.effects import (
    AddDeadLetter,
    AddToTimelines,
    Alarm,
    Count,
    CountRunning,
    Delay,
    DeleteResultKeys,
    Delivery,
    DropDeadLetter,
    Effect,
    Emission,
    Emit,
    EndIsolation,
    FollowUp,
    Forward,
    Hop,
    Mail,
    ParkedKey,
    Pause,
    Push,
    PutParkedKey,
    PutStates,
    RememberIds,
    Reply,
    Requeue,
    SetResultKey,
    TakeFromMailbox,
    Timer,
    Unpark,
)
from celery_partitions.model.keys import key_bytes
from celery_partitions.model.sinks import ListSink, StreamSink
from celery_partitions.store.dead_letters import dead_letter_of, dump_dead_letter
from celery_partitions.store.names import Names
from celery_partitions.store.parked_keys import due_score, dump_parked
from celery_partitions.store.scripts import digest_of, script
from celery_partitions.store.timelines import MAX_TIMELINE_BYTES

#: Ids in one SADD. Lua can't unpack many more.
PAGE = 5000
#: Words in one command; longer ones are split. Lua's unpack fails above about 8,000 values.
MAX_WORDS = 6000
#: Commands with more than one key, and their number of keys. The scripts have the same table.
KEYS_OF = {"RENAME": 2, "TIMELINE": 2}


def split(head: list[Any], rest: Iterable[Any]) -> Iterator[list[Any]]:
    """Split a command into several that Lua can unpack. Pairs of arguments stay together."""
    words = list(rest)
    for start in range(0, len(words), MAX_WORDS):
        yield head + words[start : start + MAX_WORDS]


def park(names: Names, partition: str, parked: Mapping[str, ParkedKey]) -> list[list[Any]]:
    """The commands that park keys, or update their records."""
    records = (word for key, one in parked.items() for word in (key_bytes(key), dump_parked(one)))
    dues = (word for key, one in parked.items() for word in (due_score(one), key_bytes(key)))
    return [*split(["HSET", names.parked(partition)], records), *split(["ZADD", names.parked_due(partition)], dues)]


def unpark(names: Names, partition: str, keys: Iterable[str]) -> list[list[Any]]:
    """The commands that unpark keys. They belong to the commit that empties the keys' mailboxes."""
    encoded = [key_bytes(key) for key in keys]
    return [*split(["HDEL", names.parked(partition)], encoded), *split(["ZREM", names.parked_due(partition)], encoded)]


def delayed_entry(due: float, raw: bytes, commit_number: int, number: int) -> tuple[int, bytes]:
    """Score and member of a delayed message in the sorted set. `number`: its place among the commit's delayed messages.

    The time is rounded up, because a timer that fires early finds nothing to do. Redis orders members that are due in the same ms by their
    bytes. The numbers are padded with zeros, so that this is the order of sending.
    """
    return math.ceil(due * 1000), b"%016d.%08d:" % (commit_number, number) + raw


def commands_of(effects: Iterable[Effect], names: Names, partition: str, commit_number: int, now: float) -> list[list[Any]]:
    """The Redis commands for effects. Commands for the same key keep the order of the effects, but what leaves mailboxes comes first.

    Follow-ups are put in front of the queue, in their order. `commit_number` orders delayed messages. `now` is the server's time, in seconds
    since the epoch.
    """
    commands: list[list[Any]] = []
    follow_ups: list[bytes] = []
    dead_letters: list[Any] = []
    taken: list[list[Any]] = []
    last: list[list[Any]] = []
    parked: dict[str, ParkedKey] = {}
    unparked: list[str] = []
    for one in effects:
        match one:
            case PutStates(computation, states, version):
                if version:  # the holder can read what is there (see `claim`), so this is not lower
                    commands.append(["HSET", names.meta(partition), names.version_field(computation), version])
                if not all(states.values()):
                    gone = [key_bytes(key) for key, state in states.items() if not state]
                    commands += split(["HDEL", names.states(partition, computation)], gone)
                    states = {key: state for key, state in states.items() if state}
                fields = [word for key, state in states.items() for word in (key_bytes(key), state)]
                commands += split(["HSET", names.states(partition, computation)], fields)
            case Forward(number, raws, into_inbox):
                there = str(number)
                commands += split(["LPUSH", names.inbox(there) if into_inbox else names.queue(there)], raws)
                if into_inbox:
                    commands.append(["HSET", names.meta(partition), "passed_on", round(now * 1000)])
            case Mail(key, raws):
                commands += split(["LPUSH", names.mailbox(partition, key)], raws)
            case TakeFromMailbox(key, raws):
                # First, and so before the same commit adds to the mailbox. A full server refuses a script if its first write needs memory.
                taken.append(["SHORTEN", names.mailbox(partition, key), len(raws), digest_of(raws[0]), digest_of(raws[-1])])
            case CountRunning(count):
                commands.append(["HSET", names.meta(partition), "running", count])
            case Delay(messages):
                entries = [delayed_entry(each.due, each.raw, commit_number, number) for number, each in enumerate(messages)]
                commands += split(["ZADD", names.delayed(partition)], (word for entry in entries for word in entry))
            case Emit(outputs, first_number):
                commands += commands_of_outputs(outputs, names, partition, commit_number, first_number)
            case PutParkedKey(key, record):
                parked[key] = record
            case Unpark(key):
                unparked.append(key)
            case AddDeadLetter(dead_letter_id, item, attempts, in_place):
                dead_letter = dead_letter_of(item, dead_letter_id, partition, attempts, now, in_place)
                dead_letters += dead_letter.id, dump_dead_letter(dead_letter)
                if dead_letter.apart:
                    commands.append(["HSET", names.dead_raw(partition), dead_letter.id, item.raw])
            case DropDeadLetter(dead_letter_id):
                commands.append(["HDEL", names.dead(partition), dead_letter_id])
            case Pause():
                commands.append(["HSET", names.meta(partition), "paused", 1])
            case RememberIds():
                commands += _remember(one, names, partition, now)
            case EndIsolation(notes, left):
                commands += split(["HDEL", names.isolation(partition)], notes)
                if left is not None:
                    meta = names.meta(partition)
                    commands.append(["HSET", meta, "to_isolate", left] if left > 0 else ["HDEL", meta, "to_isolate"])
            case Count(counts):
                commands += [["HINCRBY", names.meta(partition), name, count] for name, count in counts.items() if count]
            case AddToTimelines(changes, max_bytes, seconds):
                head = ["TIMELINE", names.timelines(partition), names.timelines_order(partition), round(seconds * 1000), MAX_TIMELINE_BYTES, max_bytes]
                last.append([*head, *(word for key, change in changes.items() for word in (key_bytes(key), change))])
            case Reply(name, meta, seconds):
                commands.append(["REPLY", name, meta, seconds or 0])
            case Push(queue, raw):
                commands.append(["LPUSH", names.prefix + queue, raw])
            case SetResultKey(name, value, seconds):
                commands.append(["SET", name, value, *(["EX", seconds] if seconds else [])])
            case DeleteResultKeys(keys):
                commands += [["DEL", name] for name in keys]
            case FollowUp(raw):
                follow_ups.append(raw)
            case Requeue(raw):
                commands.append(["LPUSH", names.queue(partition), raw])
            case _:
                assert_never(one)
    if parked or unparked:
        commands += park(names, partition, parked) + unpark(names, partition, unparked)
    if dead_letters:
        commands += split(["HSET", names.dead(partition)], dead_letters)
    if follow_ups:
        commands += split(["RPUSH", names.queue(partition)], reversed(follow_ups))
    return [*taken, *commands, *last] if taken or last else commands


def _remember(effect: RememberIds, names: Names, partition: str, now: float) -> list[list[Any]]:
    name, ids = effect.computation, effect.ids
    young, old = names.deduplication(partition, name, "young"), names.deduplication(partition, name, "old")
    commands: list[list[Any]] = [["RENAME", young, old]] if effect.replaces else []
    if effect.begins:
        commands.append(["HSET", names.meta(partition), f"seen:{name}", round(now * 1000)])
    for start in range(0, len(ids), PAGE):
        commands.append(["SADD", young, *map(normalize_id, ids[start : start + PAGE])])
    # Without new messages, nothing else would remove the ids.
    commands.append(["PEXPIRE", young, round(2 * effect.window_seconds * 1000)])
    return commands


def commands_of_outputs(
    emitted: Sequence[Emission], names: Names, partition: str, commit_number: int, first_number: int
) -> list[list[Any]]:
    """The Redis commands for outputs. Commands for the same queue, list or stream keep the order of the outputs. `first_number`: the
    number of the commit's next delayed message."""
    queues: dict[str, list[bytes]] = {}
    lists: dict[str, list[bytes]] = {}
    timers: list[Any] = []
    entries: list[list[Any]] = []
    of_partition: dict[int, list[bytes]] = {}
    for one in emitted:
        if isinstance(one, Hop):  # most are of these two kinds: patterns take three times as long
            raws = of_partition.get(one.partition)
            if raws is None:
                raws = of_partition[one.partition] = queues.setdefault(names.queue(str(one.partition)), [])
            raws.append(one.raw)
            continue
        if type(one) is Delivery and type(one.sink) is ListSink:
            lists.setdefault(one.sink.list, []).append(one.payload)
            continue
        match one:
            case Push(queue, raw):
                queues.setdefault(names.prefix + queue, []).append(raw)
            case Alarm(due, raw):
                timers += due, raw
            case Timer(due, raw):
                timers += delayed_entry(due, raw, commit_number, first_number + len(timers) // 2)
            case Delivery(StreamSink(stream=where, maxlen=maxlen), message_id, key, payload):
                bound = [] if maxlen is None else ["MAXLEN", "~", maxlen]
                fields = ["message", payload, "key", key_bytes(key), "id", message_id]
                entries.append(["XADD", where, *bound, "*", *fields])
            case Delivery():
                raise TypeError(f"no Redis commands are known for the sink {one.sink!r}")
            case _:
                assert_never(one)
    commands = [command for queue, raws in queues.items() for command in split(["LPUSH", queue], raws)]
    commands += [command for where, payloads in lists.items() for command in split(["LPUSH", where], payloads)]
    commands += split(["ZADD", names.delayed(partition)], timers)
    return commands + entries


def keys_in(command: Sequence[Any]) -> Sequence[Any]:
    """The keys that a command touches."""
    return command[1 : 1 + KEYS_OF.get(command[0], 1)]


def declare(commands: Iterable[Sequence[Any]], keys: list[Any], words: list[Any]) -> None:
    """Append commands to a script's ARGV (`words`), and their keys to its KEYS. Each command is preceded by its number of words."""
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
    """The keys of the commands that this Redis user may not access in a script. Called after the server refused a call because of its
    KEYS."""
    refused = set()
    for key in dict.fromkeys(key for command in commands for key in keys_in(command)):
        try:
            script("may_touch").run(client, [key], [])
        except redis.exceptions.NoPermissionError:
            refused.add(key)
    return refused
