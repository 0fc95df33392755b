"""The engine's scripts that a worker's loop runs, written again for the `Keyspace` of a harness: each says what its Lua file says.

`tests/testing/test_memory.py` runs both side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from celery_partitions.store.declared_keys import KEYS_OF
from celery_partitions.store.scripts import digest_of, script
from celery_partitions.testing.keyspace import KIND_OF, Keyspace, SortedSet


def commit(held: Keyspace, keys: list[bytes], words: list[bytes]) -> list[Any]:
    """`commit.lua`."""
    queue, tokens, facts, later, source, parked, *_ = keys
    unit, token, position, revision, taken_, oldest, youngest, most, most_bytes, *rest = words
    taken, now = int(taken_), held.clock.milliseconds
    at, edits = (found or b"0" for found in _fields(held, facts, b"commit_number", b"edit_version"))
    if held.find(tokens, dict).get(unit) != token:
        return [b"fenced", at, edits, now, -1, 0, 0]
    if type(held.data.get(queue, [])) is not list:
        return [b"wrongtype", at, queue, now, -1, 0, 0]
    status = b"ok"
    if position not in (b"", at):
        if int(at) != int(position) + 1:
            return [b"moved", at, edits, now, -1, 0, 0]
        status = b"already"
    if status == b"ok" and (rest or taken):
        if revision not in (b"", edits):
            return [b"stale", at, edits, now, -1, 0, 0]
        unread: list[bytes] = held.find(source, list)
        if taken and (
            len(unread) < taken
            or digest_of(unread[-1]).encode() != oldest
            or digest_of(unread[-taken]).encode() != youngest
        ):
            return [b"moved", at, edits, now, -1, 0, 0]
        commands = list(_commands(rest, keys))
        for name, key, *_ in commands:
            kind = KIND_OF.get(name)
            if kind is not None and held.exists(key) and type(held.data[key]) is not kind:
                return [b"wrongtype", at, key, now, -1, 0, 0]
        if taken:
            del unread[-taken:]
            if not unread:
                held.forget(source)
        for command in commands:
            if command[0] != b"RENAME" or held.exists(command[1]):
                held.call(*command)
        at = b"%d" % held.call("HINCRBY", facts, "commit_number", 1)
    next_due = _move_due(held, later, queue, now)
    paused, suspect = _fields(held, facts, b"paused", b"suspect")
    reply = [status, at, edits, now, next_due, int(paused is not None), int(suspect or 0)]
    if int(most) and not reply[5]:
        messages = _oldest(held, queue, int(most), int(most_bytes))
        if not messages and reply[6] and not held.exists(parked):
            held.call("HDEL", facts, "suspect")
            reply[6] = 0
        reply += messages
    return reply


def _move_due(held: Keyspace, later: bytes, queue: bytes, now: int) -> int:
    """Delayed messages that are due join the queue's end; when the next is due, ms."""
    entries = held.find(later, SortedSet)
    due = sorted((score, member) for member, score in entries.items() if score <= now)[:1000]
    for _, member in due:
        held.call("LPUSH", queue, member.partition(b":")[2])
        del entries[member]
    if not entries:
        held.forget(later)
        return -1
    return int(min(entries.values()))


def _oldest(held: Keyspace, queue: bytes, most: int, most_bytes: int) -> list[bytes]:
    messages: list[bytes] = []
    size = 0
    for raw in reversed(held.find(queue, list)[-most:]):
        size += len(raw)
        if messages and size > most_bytes:
            break
        messages.append(raw)
    return messages


#: What `begin_try` notes of a message: token, deaths, stalls.
_NOTE = rb"(\d+|-):(\d+):(\d+)"


def begin_try(held: Keyspace, keys: list[bytes], words: list[bytes]) -> list[Any]:
    """`begin_try.lua`."""
    (tokens, tries), (unit, token, largest, *digests) = keys, words
    if held.find(tokens, dict).get(unit) != token:
        return [b"fenced", 0, b"0:0"]
    count, before, notes = 0, b"0:0", {}
    for digest in digests:
        note = held.find(tries, dict).get(digest) or b""
        hang = note.startswith(b"hang:")
        found = re.fullmatch(_NOTE, note)
        deaths, stalls = (0, 0) if found is None else (int(found[2]), int(found[3]))
        deaths += found is not None and found[1] not in (token, b"-")
        alone = hang or deaths > 0 or stalls > 0
        if alone and count > 0:
            break
        count += 1
        if count == 1:
            before = note if hang else b"%d:%d" % (deaths, stalls)
        if not hang:
            notes[digest] = b"%b:%d:%d" % (token, deaths, stalls)
        if alone or count == int(largest):
            break
    for digest, note in notes.items():
        held.call("HSET", tries, digest, note)
    return [b"ok", count, before]


def forgive(held: Keyspace, keys: list[bytes], words: list[bytes]) -> int:
    """`forgive.lua`."""
    (tries,), (token, stalled, *digests) = keys, words
    changed = 0
    for digest in digests:
        note = held.find(tries, dict).get(digest) or b""
        found = re.fullmatch(_NOTE, note)
        if found is None:
            continue
        noted_by, deaths, stalls = found[1], int(found[2]), int(found[3]) + int(stalled)
        if noted_by == token:
            noted_by = b"-"
        else:
            deaths = max(0, deaths - 1)
        after = b"%b:%d:%d" % (noted_by, deaths, stalls)
        if after == b"-:0:0":
            held.call("HDEL", tries, digest)
        else:
            held.call("HSET", tries, digest, after)
        changed += after != note
    return changed


def _fields(held: Keyspace, name: bytes, *fields: bytes) -> list[bytes | None]:
    found = held.find(name, dict)
    return [found.get(field) for field in fields]


def _commands(words: Sequence[bytes], keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The commands in a script's ARGV, with the names of their keys."""
    at = 0
    while at < len(words):
        count = int(words[at])
        name, *operands = words[at + 1 : at + 1 + count]
        for place in range(KEYS_OF.get(name.decode(), 1)):
            operands[place] = keys[int(operands[place]) - 1]
        yield [name, *operands]
        at += 1 + count


#: By the digest of the Lua file.
SCRIPTS: dict[str, Callable[[Keyspace, list[bytes], list[bytes]], Any]] = {
    script("commit").digest: commit,
    script("begin_try").digest: begin_try,
    script("forgive").digest: forgive,
}
