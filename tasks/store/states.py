"""Reads states from Redis: for a worker's batch in one round trip, or by key from any process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, cast

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import MigrationFailed, StateError
from celery_partitions.model.keys import key_bytes, key_text, normalize_key
from celery_partitions.model.outcome import Slot, Unreadable
from celery_partitions.model.topology import Topology
from celery_partitions.store.codec import StateCodec, StoredMeta
from celery_partitions.store.names import Names
from celery_partitions.store.programs import Program, run
from celery_partitions.store.scripts import script

#: Keys per round trip, outside the worker.
PAGE = 1000


def load_slots(
    client: redis.Redis,
    names: Names,
    codec: StateCodec,
    partition: str,
    wanted: Mapping[str, tuple[Computation, Sequence[str]]],
) -> dict[str, dict[str, Slot | Unreadable]]:
    """Load the states of keys, by computation name, in one round trip. A key without a state gets the initial state."""
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
    """The sizes of stored states in bytes, by computation name and key, in one round trip. 0 if there is none or it can't be read."""
    with client.pipeline(transaction=False) as pipe:
        for name, keys in wanted.items():
            for key in keys:
                pipe.hstrlen(names.states(partition, name), cast(str, key_bytes(key)))
        sizes = iter(pipe.execute(raise_on_error=False))
    return {name: {key: size if isinstance(size := next(sizes), int) else 0 for key in keys} for name, keys in wanted.items()}


def is_wrong_type(error: redis.ResponseError) -> bool:
    """Whether a key has the wrong type. That lasts until somebody fixes it; other refusals (busy, no permission) are temporary."""
    return str(error).startswith("WRONGTYPE")


def _slot(codec: StateCodec, computation: Computation, key: str, stored: bytes | None) -> Slot | Unreadable:
    assert computation.state is not None
    try:
        if stored is None:
            return Slot(computation.state.new(), None)
        state, timers = codec.load(computation, key, stored), codec.timers(stored)
    except MigrationFailed as error:
        return Unreadable(str(error), error)
    except StateError as error:
        return Unreadable(str(error))
    except Exception as error:
        return Unreadable(f"the initial state could not be created: {type(error).__name__}: {error}")
    return Slot(state, stored, timers)


class StateReader:
    """Reads and deletes states by key, from any process. A computation's `state`, `states`, `keys` and `forget` use it."""

    def __init__(self, client: redis.Redis, names: Names, codec: StateCodec, topology: Topology) -> None:
        self.client, self.names, self.codec, self.topology = client, names, codec, topology

    def get(self, computation: Computation, key: object) -> Any | None:
        """A copy of the key's state as of the last commit. None if the key has no state. Raises `StateError` if it can't be read."""
        return self.get_many(computation, [key]).get(normalize_key(key))

    def get_many(self, computation: Computation, keys: Iterable[object]) -> dict[str, Any]:
        """Run `reading` with the client."""
        return run(self.client, self.reading(computation, keys))

    def reading(self, computation: Computation, keys: Iterable[object]) -> Program[dict[str, Any]]:
        """Normalized key → state, for the keys that have one. Raises `StateError` for a state that can't be read."""
        found: dict[str, Any] = {}
        rest = iter(keys)
        while page := [normalize_key(key) for key in islice(rest, PAGE)]:
            # A former name first: a worker that takes the states over meanwhile moves them from there to the present one.
            for name in (*computation.formerly, computation.name):
                rows = yield partial(self._fetch, name, page)
                for number, key in enumerate(page):
                    stored = next((row for row in rows[number :: len(page)] if row is not None), None)
                    if stored is not None:
                        found[key] = self.codec.load(computation, key, stored)
        return found

    def _fetch(self, computation_name: str, page: list[str], client: Any) -> Any:
        # During a resize the state is in the key's former partition, until it moves: look there first.
        topologies = [self.topology] if self.topology.former is None else [self.topology.before, self.topology]
        pipe = client.pipeline(transaction=False)
        for topology in topologies:
            for key in page:
                pipe.hget(self.names.states(str(topology.partition_of(key)), computation_name), cast(str, key_bytes(key)))
        return cast(Any, pipe.execute())  # a coroutine of an asyncio client

    def meta(self, computation_name: str, key: object, former_names: Iterable[str] = ()) -> StoredMeta | None:
        """Size and signature of the key's stored state, without unpickling it. None if the key has no state. `former_names`: under which it
        may have been signed."""
        normalized = normalize_key(key)
        stored = self.client.hget(self._hash(computation_name, normalized), cast(str, key_bytes(normalized)))
        return None if stored is None else self.codec.meta(computation_name, normalized, cast(bytes, stored), former_names)

    def keys(self, *computation_names: str) -> Iterator[str]:
        """Iterate over the keys that have a state, in constant memory. A key that exists throughout comes at least once, maybe more often.
        The names: of a computation, its former ones first."""
        for partition in range(self.topology.served):
            for one in computation_names:
                for field, _ in self.client.hscan_iter(self.names.states(str(partition), one), count=PAGE):
                    yield key_text(field)

    def forget(self, computation: Computation, key: object) -> bool:
        """Delete the key's state. Its next message starts from the initial state. Returns whether there was a state."""
        normalized = normalize_key(key)
        partition = str(self.topology.partition_of(normalized))
        gone = 0
        for name in (*computation.formerly, computation.name):
            gone += script("forget").run(
                self.client,
                [self.names.states(partition, name), self.names.meta(partition), self.names.timelines(partition)],
                [key_bytes(normalized), self.names.changed],
            )
        return bool(gone)

    def _hash(self, computation_name: str, key: str) -> str:
        return self.names.states(str(self.topology.partition_of(key)), computation_name)
