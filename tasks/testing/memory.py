"""The Redis of a harness: what the worker's loop asks of a client, answered from dicts of this process.

It knows what the engine uses and no more: a command or a script that it was not taught is an error, and never ignored. Its
commit is `commit.lua` written again; `tests/testing/test_memory.py` runs both side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from tasks.store.commits import digest_of_raw
from tasks.store.scripts import script


class SortedSet(dict[bytes, float]):
    """Member → score."""


class Stream(list[tuple[bytes, dict[bytes, bytes]]]):
    """Entries, the oldest first."""


#: What a command writes to.
_KIND_OF: Mapping[bytes, type] = {
    b"HSET": dict,
    b"HDEL": dict,
    b"HINCRBY": dict,
    b"LPUSH": list,
    b"RPUSH": list,
    b"ZADD": SortedSet,
    b"SADD": set,
    b"XADD": Stream,
}


def to_bytes(word: Any) -> bytes:
    """A word of a command as Redis gets it."""
    if isinstance(word, bytes):
        return word
    return word.encode("utf-8", "surrogateescape") if isinstance(word, str) else str(word).encode()


class Clock:
    """Virtual time, seconds since the epoch; stands still unless it is told to go on."""

    def __init__(self, now: float) -> None:
        self.now = now

    @property
    def milliseconds(self) -> int:
        """As Redis's scripts see it. A float of our days holds a quarter of a microsecond: what is so near counts as reached."""
        return int(self.now * 1000 + 0.001)


class Memory:
    """Stands for a `redis.Redis`. A list's left end, where messages are pushed, is index 0."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.data: dict[bytes, Any] = {}
        self.ends: dict[bytes, int] = {}
        self._scripts: dict[str, Callable[[list[bytes], list[bytes]], Any]] = {
            script("commit").digest: self.commit,
            script("begin_try").digest: self.begin_try,
            script("forgive").digest: self.forgive,
        }

    # What is asked, by the name and with the answers of redis-py.

    def hget(self, name: Any, field: Any) -> bytes | None:
        found: bytes | None = self._find(name, dict).get(to_bytes(field))
        return found

    def hmget(self, name: Any, fields: Iterable[Any]) -> list[bytes | None]:
        held = self._find(name, dict)
        return [held.get(to_bytes(field)) for field in fields]

    def hgetall(self, name: Any) -> dict[bytes, bytes]:
        return dict(self._find(name, dict))

    def hscan_iter(self, name: Any, count: int = 0) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.hgetall(name).items())

    def hsetnx(self, name: Any, field: Any, value: Any) -> int:
        held = self._make(name, dict)
        return int(held.setdefault(to_bytes(field), to_bytes(value)) == to_bytes(value))

    def llen(self, name: Any) -> int:
        return len(self._find(name, list))

    def lindex(self, name: Any, index: int) -> bytes | None:
        held: list[bytes] = self._find(name, list)
        return held[index] if -len(held) <= index < len(held) else None

    def lrange(self, name: Any, start: int, end: int) -> list[bytes]:
        held: list[bytes] = self._find(name, list)
        return held[max(0, start + len(held)) if start < 0 else start : len(held) if end == -1 else end + 1]

    def xrange(self, name: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return list(self._find(name, Stream))

    def scard(self, name: Any) -> int:
        return len(self._find(name, set))

    def smismember(self, name: Any, members: Iterable[Any]) -> list[int]:
        held = self._find(name, set)
        return [int(to_bytes(one) in held) for one in members]

    def zscore_first(self, name: Any) -> float | None:
        """The least score of a sorted set; None of an empty one."""
        return min(self._find(name, SortedSet).values(), default=None)

    def get(self, name: Any) -> bytes | None:
        found: bytes | None = self._find(name, bytes) or None
        return found

    def pipeline(self, transaction: bool = True) -> _Pipeline:
        return _Pipeline(self)

    def execute_command(self, command: str, *words: Any) -> Any:
        """A script by its digest; nothing else is sent so."""
        if command != "EVALSHA" or words[0] not in self._scripts:
            raise NotImplementedError(f"{command} {words[0]}: the harness has not been taught this script (tasks.testing.memory)")
        keys, rest = words[2 : 2 + words[1]], words[2 + words[1] :]
        return self._scripts[words[0]](list(map(to_bytes, keys)), list(map(to_bytes, rest)))

    def close(self) -> None:
        """As of a client; what is held stays."""

    # What is held.

    def _find(self, name: Any, kind: type) -> Any:
        """What a name holds, an empty one where it holds nothing. Raises `TypeError` where that is of another kind."""
        key = to_bytes(name)
        end = self.ends.get(key)
        if end is not None and end <= self.clock.milliseconds:
            self._forget(key)
        held = self.data.get(key)
        if held is None:
            return kind()
        if type(held) is not kind:
            raise TypeError(f"WRONGTYPE {key!r} is a {type(held).__name__.lower()}, not a {kind.__name__.lower()}")
        return held

    def _make(self, name: Any, kind: type) -> Any:
        held = self._find(name, kind)
        self.data[to_bytes(name)] = held
        return held

    def _forget(self, key: bytes) -> None:
        self.data.pop(key, None)
        self.ends.pop(key, None)

    def call(self, *words: Any) -> Any:
        """Run one command of those that a commit holds. Raises `NotImplementedError` for any other."""
        name, key, *rest = map(to_bytes, words)
        match name:
            case b"HSET":
                self._make(key, dict).update(zip(rest[::2], rest[1::2], strict=True))
            case b"HDEL":
                held = self._find(key, dict)
                for field in rest:
                    held.pop(field, None)
            case b"HINCRBY":
                held, (field, by) = self._make(key, dict), rest
                held[field] = b"%d" % (int(held.get(field, b"0")) + int(by))
                return int(held[field])
            case b"LPUSH":
                self._make(key, list)[:0] = rest[::-1]
            case b"RPUSH":
                self._make(key, list).extend(rest)
            case b"ZADD":
                self._make(key, SortedSet).update(zip(rest[1::2], map(float, rest[::2]), strict=True))
            case b"SADD":
                self._make(key, set).update(rest)
            case b"XADD":
                self._add_entry(key, rest)
            case b"RENAME":
                self.data[rest[0]] = self.data.pop(key)
                self.ends.pop(rest[0], None)
                if key in self.ends:
                    self.ends[rest[0]] = self.ends.pop(key)
            case b"PEXPIRE":
                if key in self.data:
                    self.ends[key] = self.clock.milliseconds + int(rest[0])
            case _:
                raise NotImplementedError(f"the harness has not been taught the command {name.decode()} (tasks.testing.memory)")
        if not self.data.get(key, True):
            self._forget(key)
        return None

    def _add_entry(self, key: bytes, rest: list[bytes]) -> None:
        held = self._make(key, Stream)
        most = int(rest[2]) if rest[0] == b"MAXLEN" else None  # "~": all that is over it, which Redis may do too
        fields = rest[rest.index(b"*") + 1 :]
        number = sum(entry.startswith(b"%d-" % self.clock.milliseconds) for entry, _ in held[-1000:])
        held.append((b"%d-%d" % (self.clock.milliseconds, number), dict(zip(fields[::2], fields[1::2], strict=True))))
        if most is not None:
            del held[: -most or None]

    # The scripts, as their files say.

    def commit(self, keys: list[bytes], words: list[bytes]) -> list[Any]:
        """`commit.lua`."""
        queue, tokens, facts, later, source, parked, *_ = keys
        unit, token, position, revision, taken_, oldest, youngest, most, most_bytes, *rest = words
        taken, now = int(taken_), self.clock.milliseconds
        at, edits = (found or b"0" for found in self.hmget(facts, ["position", "revision"]))
        if self.hget(tokens, unit) != token:
            return [b"fenced", at, edits, now, -1, 0, 0]
        if type(self.data.get(queue, [])) is not list:
            return [b"wrongtype", at, queue, now, -1, 0, 0]
        status = b"ok"
        if position not in (b"", at):
            if int(at) != int(position) + 1:
                return [b"moved", at, edits, now, -1, 0, 0]
            status = b"already"
        if status == b"ok" and (rest or taken):
            if revision not in (b"", edits):
                return [b"stale", at, edits, now, -1, 0, 0]
            held: list[bytes] = self._find(source, list)
            if taken and (
                len(held) < taken
                or digest_of_raw(held[-1]).encode() != oldest
                or digest_of_raw(held[-taken]).encode() != youngest
            ):
                return [b"moved", at, edits, now, -1, 0, 0]
            commands = list(_commands(rest))
            for name, key, *_ in commands:
                kind = _KIND_OF.get(name)
                if kind is not None and type(self.data.get(key, kind())) is not kind:
                    return [b"wrongtype", at, key, now, -1, 0, 0]
            if taken:
                del held[-taken:]
                if not held:
                    self._forget(source)
            for command in commands:
                if command[0] != b"RENAME" or command[1] in self.data:
                    self.call(*command)
            at = b"%d" % self.call("HINCRBY", facts, "position", 1)
        next_due = self._move_due(later, queue, now)
        paused, suspect = self.hmget(facts, ["paused", "suspect"])
        reply = [status, at, edits, now, next_due, int(paused == b"1"), int(suspect or 0)]
        if int(most) and not reply[5]:
            messages = self._oldest(queue, int(most), int(most_bytes))
            if not messages and reply[6] and parked not in self.data:
                self.call("HDEL", facts, "suspect")
                reply[6] = 0
            reply += messages
        return reply

    def _move_due(self, later: bytes, queue: bytes, now: int) -> int:
        """Delayed messages that are due join the queue's end; when the next is due, ms."""
        held = self._find(later, SortedSet)
        due = sorted((score, member) for member, score in held.items() if score <= now)[:1000]
        for _, member in due:
            self.call("LPUSH", queue, member.partition(b":")[2])
            del held[member]
        if not held:
            self._forget(later)
            return -1
        return int(min(held.values()))

    def _oldest(self, queue: bytes, most: int, most_bytes: int) -> list[bytes]:
        messages: list[bytes] = []
        size = 0
        for raw in reversed(self._find(queue, list)[-most:]):
            size += len(raw)
            if messages and size > most_bytes:
                break
            messages.append(raw)
        return messages

    def begin_try(self, keys: list[bytes], words: list[bytes]) -> list[bytes]:
        """`begin_try.lua`."""
        (tokens, tries), (unit, token, digest) = keys, words
        if self.hget(tokens, unit) != token:
            return [b"fenced", b"0"]
        before = self.hget(tries, digest) or b""
        if before.startswith(b"hang:"):
            return [b"ok", before]
        found = re.fullmatch(rb"(\d+):(\d+)", before)
        deaths = 0 if found is None else int(found[2]) + (found[1] != token)
        self.call("HSET", tries, digest, b"%b:%d" % (token, deaths))
        return [b"ok", b"%d" % deaths]

    def forgive(self, keys: list[bytes], words: list[bytes]) -> int:
        """`forgive.lua`."""
        (tries,), (token, digest) = keys, words
        found = re.fullmatch(rb"(\d+):(\d+)", self.hget(tries, digest) or b"")
        if found is None or (found[1] != token and found[2] == b"0"):
            return 0
        if found[1] == token:
            self.call("HDEL", tries, digest)
        else:
            self.call("HSET", tries, digest, b"%b:%d" % (found[1], int(found[2]) - 1))
        return 1


def _commands(words: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    at = 0
    while at < len(words):
        count = int(words[at])
        yield words[at + 1 : at + 1 + count]
        at += 1 + count


class _Pipeline:
    """As redis-py's: calls are noted, and run by `execute`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._calls: list[Callable[[], Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.clear()

    def __getattr__(self, name: str) -> Callable[..., None]:
        method = getattr(self._memory, name)
        return lambda *args, **kwargs: self._calls.append(lambda: method(*args, **kwargs))

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        calls, self._calls = self._calls, []
        return [call() for call in calls]
