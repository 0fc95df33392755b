"""States as Redis has them: read in one round trip for a worker's batch, or by anyone, by key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import StateError
from celery_partitions.model.keys import key_bytes, key_text, normalize_key, partition_of
from celery_partitions.model.outcome import Slot, Unreadable
from celery_partitions.store.codec import StateCodec, StoredMeta
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script

#: Keys of one reading round trip outside the worker.
PAGE = 1000


def load_slots(
    client: redis.Redis,
    names: Names,
    codec: StateCodec,
    partition: str,
    wanted: Mapping[str, tuple[Computation, Sequence[str]]],
) -> dict[str, dict[str, Slot | Unreadable]]:
    """The states of keys, by computation name, in one round trip; a key never seen gets its zero state."""
    with client.pipeline(transaction=False) as pipe:
        for name, (_, keys) in wanted.items():
            pipe.hmget(names.states(partition, name), [cast(str, key_bytes(key)) for key in keys])
        rows = pipe.execute(raise_on_error=False)
    loaded: dict[str, dict[str, Slot | Unreadable]] = {}
    for (name, (computation, keys)), values in zip(wanted.items(), rows, strict=True):
        slots: dict[str, Slot | Unreadable] = loaded.setdefault(name, {})
        if isinstance(values, redis.ResponseError) and is_wrong_type(values):
            slots.update((key, Unreadable(f"the states of {name!r} can't be read: {values}")) for key in keys)
            continue
        if isinstance(values, Exception):
            raise values
        for key, stored in zip(keys, values, strict=True):
            slots[key] = _slot(codec, computation, key, stored)
    return loaded


def state_sizes(
    client: redis.Redis, names: Names, partition: str, wanted: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, int]]:
    """The bytes of stored states, by computation name and key, in one round trip; 0 where there is none, or none can be read."""
    with client.pipeline(transaction=False) as pipe:
        for name, keys in wanted.items():
            for key in keys:
                pipe.hstrlen(names.states(partition, name), cast(str, key_bytes(key)))
        sizes = iter(pipe.execute(raise_on_error=False))
    return {name: {key: size if isinstance(size := next(sizes), int) else 0 for key in keys} for name, keys in wanted.items()}


def is_wrong_type(error: redis.ResponseError) -> bool:
    """Whether a key holds another type: that stays until somebody mends it. Other refusals (busy, no permission) pass."""
    return str(error).startswith("WRONGTYPE")


def _slot(codec: StateCodec, computation: Computation, key: str, stored: bytes | None) -> Slot | Unreadable:
    assert computation.state is not None
    try:
        state = computation.state.new() if stored is None else codec.load(computation, key, stored)
    except StateError as error:
        return Unreadable(str(error))
    except Exception as error:
        return Unreadable(f"the first state could not be made: {type(error).__name__}: {error}")
    return Slot(state, stored)


class StateReader:
    """States by key, from any process: what `state`, `states`, `keys` and `forget` of a computation do."""

    def __init__(self, client: redis.Redis, names: Names, codec: StateCodec, partitions: int) -> None:
        self.client, self.names, self.codec, self.partitions = client, names, codec, partitions

    def get(self, computation: Computation, key: object) -> Any | None:
        """A copy of the key's state as last committed; None when the key was never seen."""
        return self.get_many(computation, [key]).get(normalize_key(key))

    def get_many(self, computation: Computation, keys: Iterable[object]) -> dict[str, Any]:
        """Spelled key → state, for the keys that have one. Raises `StateError` for one that can't be read."""
        found: dict[str, Any] = {}
        rest = iter(keys)
        while page := [normalize_key(key) for key in islice(rest, PAGE)]:
            with self.client.pipeline(transaction=False) as pipe:
                for key in page:
                    pipe.hget(self._hash(computation.name, key), cast(str, key_bytes(key)))
                rows = pipe.execute()
            for key, stored in zip(page, rows, strict=True):
                if stored is not None:
                    found[key] = self.codec.load(computation, key, stored)
        return found

    def meta(self, computation_name: str, key: object) -> StoredMeta | None:
        """What can be seen of the key's stored state without unpickling it; None when the key was never seen."""
        spelled = normalize_key(key)
        stored = self.client.hget(self._hash(computation_name, spelled), cast(str, key_bytes(spelled)))
        return None if stored is None else self.codec.meta(computation_name, spelled, cast(bytes, stored))

    def keys(self, computation_name: str) -> Iterator[str]:
        """Every key that has a state, scanned: constant memory, each key at least once while it exists."""
        for partition in range(self.partitions):
            name = self.names.states(str(partition), computation_name)
            for field, _ in self.client.hscan_iter(name, count=PAGE):
                yield key_text(field)

    def forget(self, computation: Computation, key: object) -> bool:
        """Delete the key's state; its next message finds the zero state. Returns whether there was one."""
        spelled = normalize_key(key)
        partition = str(partition_of(spelled, self.partitions))
        gone = script("forget").run(
            self.client,
            [self.names.states(partition, computation.name), self.names.meta(partition)],
            [key_bytes(spelled), self.names.changed],
        )
        return bool(gone)

    def _hash(self, computation_name: str, key: str) -> str:
        return self.names.states(str(partition_of(key, self.partitions)), computation_name)
