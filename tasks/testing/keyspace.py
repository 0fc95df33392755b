"""Redis data in Python dicts, with the commands that the engine uses. The harness and the simulator run on it.

`tests/simulation/test_backend.py` compares its answers with those of a real server. Answers have the types of a RESP2 connection:
int, bytes, None, list, `Status`. The left end of a list is index 0, as in Redis. Each command is a short method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import ResponseError

Words = list[bytes]
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


class Status(bytes):
    """A simple string reply, such as OK or the answer of TYPE."""


class SortedSet(dict[bytes, float]):
    def in_order(self) -> list[tuple[bytes, float]]:
        return sorted(self.items(), key=lambda pair: (pair[1], pair[0]))


class Stream(list[Any]):
    """(id, fields and values) of each entry, oldest first. Never trimmed, because the bound (`MAXLEN ~`) is approximate."""


#: The answer of TYPE for each Python type.
KINDS: dict[type, bytes] = {bytes: b"string", list: b"list", dict: b"hash", SortedSet: b"zset", set: b"set", Stream: b"stream"}


class Keyspace:
    """One database. `now`: seconds since the epoch, set by the owner of the clock; keys expire by it."""

    def __init__(self) -> None:
        self.data: dict[bytes, Any] = {}
        self.ends: dict[bytes, int] = {}
        self.now = 0.0
        #: Keys that were written since this set was last cleared.
        self.touched: set[bytes] = set()
        #: Called with (channel, message); returns the number of subscribers.
        self.publish: Callable[[bytes, bytes], int] = lambda channel, message: 0

    def call(self, words: Words) -> Any:
        """Run one command. Raises `ResponseError` where a server would return an error."""
        command = _COMMANDS.get(words[0]) or _COMMANDS.get(words[0].upper())
        if command is None:
            raise ResponseError(f"unknown command '{words[0].decode('ascii', 'replace')}'")
        try:
            return command(self, *words[1:])
        except TypeError as error:
            raise ResponseError(f"wrong number of arguments for '{words[0].decode().lower()}' command") from error

    @property
    def milliseconds(self) -> int:
        """The clock as scripts see it. Rounds up by a microsecond, because a present-day float is exact only to a quarter of one."""
        return int(self.now * 1000 + 0.001)

    # Keys.

    def find(self, key: bytes, kind: type) -> Any:
        """The value of a key; None if there is none. Raises `ResponseError` if it has another type."""
        if key in self.ends and self.ends[key] <= self.milliseconds:
            del self.ends[key], self.data[key]
        held = self.data.get(key)
        if held is not None and type(held) is not kind:
            raise ResponseError(WRONG_TYPE)
        return held

    def make(self, key: bytes, kind: type) -> Any:
        """The value of a key, created if missing, for writing."""
        held = self.find(key, kind)
        self.touched.add(key)
        if held is None:
            held = self.data[key] = kind()
        return held

    def drop_if_empty(self, key: bytes) -> None:
        if not self.data[key]:
            self.forget(key)

    def forget(self, key: bytes) -> None:
        self.touched.add(key)
        del self.data[key]
        self.ends.pop(key, None)

    def remove(self, key: bytes, kind: type, members: Iterable[bytes]) -> int:
        """Remove members of a set, a sorted set or a hash, and return how many there were."""
        held = self.find(key, kind) or kind()
        gone = {each for each in members if each in held}
        for each in gone:
            held.remove(each) if kind is set else held.pop(each)
        if gone:
            self.touched.add(key)
            self.drop_if_empty(key)
        return len(gone)

    def exists(self, key: bytes) -> bool:
        if key in self.ends and self.ends[key] <= self.milliseconds:
            del self.ends[key], self.data[key]
        return key in self.data

    def do_type(self, key: bytes) -> Status:
        return Status(KINDS[type(self.data[key])] if self.exists(key) else b"none")

    def do_exists(self, *keys: bytes) -> int:
        return sum(map(self.exists, keys))

    def do_del(self, *keys: bytes) -> int:
        found = [key for key in dict.fromkeys(keys) if self.exists(key)]
        for key in found:
            self.forget(key)
        return len(found)

    do_unlink = do_del

    def do_rename(self, old: bytes, new: bytes) -> Status:
        if not self.exists(old):
            raise ResponseError("no such key")
        held, end = self.data.pop(old), self.ends.pop(old, None)
        self.touched |= {old, new}
        self.data[new] = held
        self.ends.pop(new, None)
        if end is not None:
            self.ends[new] = end
        return Status(b"OK")

    def do_pexpireat(self, key: bytes, end: bytes) -> int:
        if not self.exists(key):
            return 0
        self.ends[key] = int(end)
        self.exists(key)
        return 1

    def do_pttl(self, key: bytes) -> int:
        if not self.exists(key):
            return -2
        return self.ends[key] - self.milliseconds if key in self.ends else -1

    def do_pexpire(self, key: bytes, milliseconds: bytes) -> int:
        return self.do_pexpireat(key, b"%d" % (self.milliseconds + int(milliseconds)))

    def do_expire(self, key: bytes, seconds: bytes) -> int:
        return self.do_pexpire(key, b"%d" % (1000 * int(seconds)))

    def do_time(self) -> Words:
        micros = round(self.now * 1_000_000)
        return [b"%d" % (micros // 1_000_000), b"%d" % (micros % 1_000_000)]

    def do_ping(self) -> Status:
        return Status(b"PONG")

    def do_publish(self, channel: bytes, message: bytes) -> int:
        return self.publish(channel, message)

    # Strings.

    def do_get(self, key: bytes) -> bytes | None:
        found: bytes | None = self.find(key, bytes)
        return found

    def do_set(self, key: bytes, value: bytes) -> Status:
        self.touched.add(key)
        self.data[key] = value
        self.ends.pop(key, None)
        return Status(b"OK")

    # Hashes.

    def do_hset(self, key: bytes, *pairs: bytes) -> int:
        fields = _pairs(pairs)
        held = self.make(key, dict)
        new = len({field for field, _ in fields} - held.keys())
        held.update(fields)
        return new

    def do_hsetnx(self, key: bytes, field: bytes, value: bytes) -> int:
        held = self.find(key, dict)
        return 0 if held and field in held else self.do_hset(key, field, value)

    def do_hget(self, key: bytes, field: bytes) -> bytes | None:
        return (self.find(key, dict) or {}).get(field)

    def do_hstrlen(self, key: bytes, field: bytes) -> int:
        return len(self.do_hmget(key, field)[0] or b"")

    def do_hmget(self, key: bytes, field: bytes, *fields: bytes) -> list[bytes | None]:
        held = self.find(key, dict) or {}
        return [held.get(each) for each in (field, *fields)]

    def do_hgetall(self, key: bytes) -> Words:
        return [word for pair in (self.find(key, dict) or {}).items() for word in pair]

    def do_hkeys(self, key: bytes) -> Words:
        return self.do_hgetall(key)[::2]

    def do_hexists(self, key: bytes, field: bytes) -> int:
        return int(field in (self.find(key, dict) or {}))

    def do_hlen(self, key: bytes) -> int:
        return len(self.find(key, dict) or {})

    def do_hdel(self, key: bytes, field: bytes, *fields: bytes) -> int:
        return self.remove(key, dict, (field, *fields))

    def do_hincrby(self, key: bytes, field: bytes, by: bytes) -> int:
        found = (self.find(key, dict) or {}).get(field, b"0")
        try:
            value = int(found) + int(by)
        except ValueError:
            raise ResponseError("hash value is not an integer") from None
        self.make(key, dict)[field] = b"%d" % value
        return value

    def do_hscan(self, key: bytes, cursor: bytes, *options: bytes) -> list[Any]:
        return [b"0", self.do_hgetall(key)]

    # Streams.

    def do_xadd(self, key: bytes, *words: bytes) -> bytes:
        held = self.make(key, Stream)
        entry = b"%d-%d" % (self.milliseconds, len(held))
        held.append((entry, list(words[words.index(b"*") + 1 :])))
        return entry

    def do_xrange(self, key: bytes, first: bytes, last: bytes) -> list[list[Any]]:
        if (first, last) != (b"-", b"+"):
            raise ResponseError("the in-memory Redis supports XRANGE only from - to +")
        return [list(entry) for entry in self.find(key, Stream) or ()]

    def do_xlen(self, key: bytes) -> int:
        return len(self.find(key, Stream) or ())

    def do_xdel(self, key: bytes, *ids: bytes) -> int:
        held = self.find(key, Stream) or Stream()
        return sum(held.remove(entry) is None for entry in list(held) if entry[0] in ids)

    # Lists.

    def do_lpush(self, key: bytes, value: bytes, *values: bytes) -> int:
        held = self.make(key, list)
        held[:0] = (value, *values)[::-1]
        return len(held)

    def do_rpush(self, key: bytes, value: bytes, *values: bytes) -> int:
        held = self.make(key, list)
        held += (value, *values)
        return len(held)

    def do_llen(self, key: bytes) -> int:
        return len(self.find(key, list) or ())

    def do_lindex(self, key: bytes, index: bytes) -> bytes | None:
        held, at = self.find(key, list) or [], int(index)
        return held[at] if -len(held) <= at < len(held) else None

    def do_lrange(self, key: bytes, start: bytes, stop: bytes) -> Words:
        held = self.find(key, list) or []
        return held[_span(len(held), start, stop)]

    def do_ltrim(self, key: bytes, start: bytes, stop: bytes) -> Status:
        held = self.find(key, list)
        if held:
            self.touched.add(key)
            held[:] = held[_span(len(held), start, stop)]
            self.drop_if_empty(key)
        return Status(b"OK")

    def do_lpop(self, key: bytes) -> bytes | None:
        return self.pop(key, b"LEFT")

    def do_rpop(self, key: bytes) -> bytes | None:
        return self.pop(key, b"RIGHT")

    def pop(self, key: bytes, end: bytes) -> bytes | None:
        held = self.find(key, list)
        if not held:
            return None
        self.touched.add(key)
        value: bytes = held.pop(0 if end.upper() == b"LEFT" else -1)
        self.drop_if_empty(key)
        return value

    def do_lmove(self, source: bytes, target: bytes, from_end: bytes, to_end: bytes) -> bytes | None:
        if not self.find(source, list):
            return None
        self.find(target, list)
        value = self.pop(source, from_end)
        assert value is not None
        (self.do_lpush if to_end.upper() == b"LEFT" else self.do_rpush)(target, value)
        return value

    # Sorted sets.

    def do_zadd(self, key: bytes, *pairs: bytes) -> int:
        scores = [(member, float(score)) for score, member in _pairs(pairs)]
        held = self.make(key, SortedSet)
        new = len({member for member, _ in scores} - held.keys())
        held.update(scores)
        return new

    def do_zrem(self, key: bytes, member: bytes, *members: bytes) -> int:
        return self.remove(key, SortedSet, (member, *members))

    def do_zcard(self, key: bytes) -> int:
        return len(self.find(key, SortedSet) or ())

    def do_zscore(self, key: bytes, member: bytes) -> bytes | None:
        held = self.find(key, SortedSet) or {}
        return _score(held[member]) if member in held else None

    def do_zrange(self, key: bytes, start: bytes, stop: bytes, *options: bytes) -> Words:
        held = self.find(key, SortedSet) or SortedSet()
        rows = held.in_order()[_span(len(held), start, stop)]
        return _rows(rows, with_scores=_only(options, b"WITHSCORES"))

    def do_zrangebyscore(self, key: bytes, least: bytes, limit: bytes, *options: bytes) -> Words:
        held = self.find(key, SortedSet) or SortedSet()
        rows = [pair for pair in held.in_order() if _above(pair[1], least) and _below(pair[1], limit)]
        if options and options[0].upper() == b"LIMIT":
            offset, count = int(options[1]), int(options[2])
            rows, options = rows[offset : offset + count], options[3:]
        return _rows(rows, with_scores=_only(options, b"WITHSCORES"))

    def do_zremrangebyscore(self, key: bytes, least: bytes, limit: bytes) -> int:
        held = self.find(key, SortedSet) or SortedSet()
        gone = [member for member, score in held.items() if _above(score, least) and _below(score, limit)]
        return self.remove(key, SortedSet, gone)

    # Sets.

    def do_sadd(self, key: bytes, member: bytes, *members: bytes) -> int:
        held = self.make(key, set)
        before = len(held)
        held.update((member, *members))
        return len(held) - before

    def do_srem(self, key: bytes, member: bytes, *members: bytes) -> int:
        return self.remove(key, set, (member, *members))

    def do_scard(self, key: bytes) -> int:
        return len(self.find(key, set) or ())

    def do_smembers(self, key: bytes) -> Words:
        return list(self.find(key, set) or ())

    def do_sscan(self, key: bytes, cursor: bytes, *options: bytes) -> list[Any]:
        return [b"0", self.do_smembers(key)]

    def do_smismember(self, key: bytes, member: bytes, *members: bytes) -> list[int]:
        held = self.find(key, set) or set()
        return [int(each in held) for each in (member, *members)]


_COMMANDS: dict[bytes, Callable[..., Any]] = {
    name.removeprefix("do_").upper().encode(): function
    for name, function in vars(Keyspace).items()
    if name.startswith("do_")
}


def _pairs(words: tuple[bytes, ...]) -> list[tuple[bytes, bytes]]:
    if not words or len(words) % 2:
        raise TypeError
    return list(zip(words[::2], words[1::2], strict=True))


def _span(length: int, start: bytes, stop: bytes) -> slice:
    """A Redis range (inclusive, negative from the end) as a Python slice."""
    first, last = int(start), int(stop)
    first = max(0, first + length if first < 0 else first)
    last = last + length if last < 0 else last
    return slice(first, max(first, last + 1))


def _score(score: float) -> bytes:
    return b"%d" % score if score.is_integer() else repr(score).encode()


def _rows(rows: Iterable[tuple[bytes, float]], *, with_scores: bool) -> Words:
    if not with_scores:
        return [member for member, _ in rows]
    return [word for member, score in rows for word in (member, _score(score))]


def _only(options: tuple[bytes, ...], known: bytes) -> bool:
    if options and (len(options) > 1 or options[0].upper() != known):
        raise ResponseError("syntax error")
    return bool(options)


def _above(score: float, bound: bytes) -> bool:
    return score > float(bound[1:]) if bound[:1] == b"(" else score >= float(bound)


def _below(score: float, bound: bytes) -> bool:
    return score < float(bound[1:]) if bound[:1] == b"(" else score <= float(bound)
