"""What the Redis of a harness holds, in dicts, and the commands that a commit may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SortedSet(dict[bytes, float]):
    """Member → score."""


class Stream(list[tuple[bytes, dict[bytes, bytes]]]):
    """Entries, the oldest first."""


#: What a command writes to.
KIND_OF: Mapping[bytes, type] = {
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


class Keyspace:
    """One database. A list's left end, where messages are pushed, is index 0."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.data: dict[bytes, Any] = {}
        self.ends: dict[bytes, int] = {}

    def find(self, name: Any, kind: type) -> Any:
        """What a name holds, an empty one where it holds nothing. Raises `TypeError` where that is of another kind."""
        key = to_bytes(name)
        held = self.data[key] if self.exists(key) else None
        if held is None:
            return kind()
        if type(held) is not kind:
            raise TypeError(f"WRONGTYPE {key!r} is a {type(held).__name__.lower()}, not a {kind.__name__.lower()}")
        return held

    def make(self, name: Any, kind: type) -> Any:
        held = self.find(name, kind)
        self.data[to_bytes(name)] = held
        return held

    def exists(self, key: bytes) -> bool:
        """Whether a name holds something; what has expired is gone with this."""
        end = self.ends.get(key)
        if end is not None and end <= self.clock.milliseconds:
            self.forget(key)
        return key in self.data

    def forget(self, key: bytes) -> None:
        self.data.pop(key, None)
        self.ends.pop(key, None)

    def call(self, *words: Any) -> Any:
        """Run one command of those that a commit holds. Raises `NotImplementedError` for any other."""
        name, key, *rest = map(to_bytes, words)
        match name:
            case b"HSET":
                self.make(key, dict).update(zip(rest[::2], rest[1::2], strict=True))
            case b"HDEL":
                held = self.find(key, dict)
                for field in rest:
                    held.pop(field, None)
            case b"HINCRBY":
                held, (field, by) = self.make(key, dict), rest
                held[field] = b"%d" % (int(held.get(field, b"0")) + int(by))
                return int(held[field])
            case b"LPUSH":
                self.make(key, list)[:0] = rest[::-1]
            case b"RPUSH":
                self.make(key, list).extend(rest)
            case b"ZADD":
                self.make(key, SortedSet).update(zip(rest[1::2], map(float, rest[::2]), strict=True))
            case b"SADD":
                self.make(key, set).update(rest)
            case b"XADD":
                self._add_entry(key, rest)
            case b"RENAME":
                self.data[rest[0]] = self.data.pop(key)
                self.ends.pop(rest[0], None)
                if key in self.ends:
                    self.ends[rest[0]] = self.ends.pop(key)
            case b"PEXPIRE":
                if self.exists(key):
                    self.ends[key] = self.clock.milliseconds + int(rest[0])
            case _:
                raise NotImplementedError(f"the harness has not been taught the command {name.decode()} (celery_partitions.testing.keyspace)")
        if not self.data.get(key, True):
            self.forget(key)
        return None

    def _add_entry(self, key: bytes, rest: list[bytes]) -> None:
        """Nothing is let go: a bound (`MAXLEN ~`) is only about, and a test wants to see all that left."""
        held = self.make(key, Stream)
        now, number = self.clock.milliseconds, 0
        if held:
            last, _, before = held[-1][0].partition(b"-")
            number = int(before) + 1 if int(last) == now else 0
        fields = rest[rest.index(b"*") + 1 :]
        held.append((b"%d-%d" % (now, number), dict(zip(fields[::2], fields[1::2], strict=True))))
