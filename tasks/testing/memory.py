"""The Redis of a harness: what the worker's loop asks of a client, by the names and with the answers of redis-py.

It knows what the engine uses and no more: a command or a script that it was not taught is an error, and never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from celery_partitions.testing.keyspace import Keyspace, SortedSet, Stream, to_bytes
from celery_partitions.testing.scripts import SCRIPTS


class Memory(Keyspace):
    """Stands for a `redis.Redis`."""

    def hget(self, name: Any, field: Any) -> bytes | None:
        found: bytes | None = self.find(name, dict).get(to_bytes(field))
        return found

    def hmget(self, name: Any, fields: Iterable[Any]) -> list[bytes | None]:
        held = self.find(name, dict)
        return [held.get(to_bytes(field)) for field in fields]

    def hgetall(self, name: Any) -> dict[bytes, bytes]:
        return dict(self.find(name, dict))

    def hscan_iter(self, name: Any, count: int = 0) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.hgetall(name).items())

    def hscan(self, name: Any, cursor: int = 0, count: int = 0) -> tuple[int, dict[bytes, bytes]]:
        """All at once: the last page is the first."""
        return 0, self.hgetall(name)

    def hsetnx(self, name: Any, field: Any, value: Any) -> int:
        held = self.make(name, dict)
        return int(held.setdefault(to_bytes(field), to_bytes(value)) == to_bytes(value))

    def llen(self, name: Any) -> int:
        return len(self.find(name, list))

    def lindex(self, name: Any, index: int) -> bytes | None:
        held: list[bytes] = self.find(name, list)
        return held[index] if -len(held) <= index < len(held) else None

    def lrange(self, name: Any, start: int, end: int) -> list[bytes]:
        held: list[bytes] = self.find(name, list)
        return held[max(0, start + len(held)) if start < 0 else start : len(held) if end == -1 else end + 1]

    def xrange(self, name: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return list(self.find(name, Stream))

    def scard(self, name: Any) -> int:
        return len(self.find(name, set))

    def smismember(self, name: Any, members: Iterable[Any]) -> list[int]:
        held = self.find(name, set)
        return [int(to_bytes(one) in held) for one in members]

    def zscore_first(self, name: Any) -> float | None:
        """The least score of a sorted set; None of an empty one."""
        return min(self.find(name, SortedSet).values(), default=None)

    def get(self, name: Any) -> bytes | None:
        found: bytes | None = self.find(name, bytes) or None
        return found

    def pipeline(self, transaction: bool = True) -> _Pipeline:
        return _Pipeline(self)

    def execute_command(self, command: str, *words: Any) -> Any:
        """A script by its digest; nothing else is sent so."""
        run = SCRIPTS.get(words[0]) if command == "EVALSHA" else None
        if run is None:
            raise NotImplementedError(f"{command} {words[0]}: the harness has not been taught this script (celery_partitions.testing.scripts)")
        keys, rest = words[2 : 2 + words[1]], words[2 + words[1] :]
        return run(self, list(map(to_bytes, keys)), list(map(to_bytes, rest)))

    def close(self) -> None:
        """As of a client; what is held stays."""


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
