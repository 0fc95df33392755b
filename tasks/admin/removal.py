"""Deletes what a computation that was removed from the code has left: states, timers, remembered ids, measurements."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import cast

import msgspec
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.state_versions import nodes_that_know
from celery_partitions.model.computation import timer_task
from celery_partitions.model.errors import SetupError
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script

#: Delayed messages read, and timers deleted, in one round trip.
PAGE = 1000


def count_states(client: redis.Redis, names: Names, partitions: int, computation: str) -> int:
    """The states of a computation."""
    with client.pipeline(transaction=False) as pipe:
        for number in range(partitions):
            pipe.hlen(names.states(str(number), computation))
        return sum(pipe.execute())


def remove_computation(client: redis.Redis, names: Names, partitions: int, computation: str, *, by: str) -> int:
    """Delete all that a computation has left, except its messages and dead letters. Returns the number of timers deleted. Raises `SetupError` if
    a running worker knows it."""
    nodes = nodes_that_know(client, names, computation)
    if nodes:
        raise SetupError(f"{computation!r} is known to {', '.join(nodes)}. Deploy code without it first")
    states = count_states(client, names, partitions, computation)
    timers = 0
    for number in range(partitions):
        partition = str(number)
        for alarms in _alarms(client, names.delayed(partition), computation):
            timers += client.zrem(names.delayed(partition), *alarms)
        ages = [names.deduplication(partition, computation, "young"), names.deduplication(partition, computation, "old")]
        keys = [names.meta(partition), names.states(partition, computation), *ages, names.rates(partition, computation)]
        script("remove_computation").run(client, keys, [names.version_field(computation), f"seen:{computation}"])
    group_meta = cast(list[bytes], client.hkeys(names.group_meta))
    own = [name for name in names.computations_in(group_meta) if name == computation or name.startswith(timer_task(computation, "x")[:-1])]
    with client.pipeline(transaction=False) as pipe:
        for name in own or [computation]:
            pipe.hdel(names.group_meta, names.computation_field(name))
            pipe.hdel(names.policies, name)
            pipe.hdel(names.computations, name)
            pipe.unlink(names.computation_history(name, "fine"), names.computation_history(name, "coarse"), names.shared_rates(name))
        Audit(client, names).add(pipe, by, "remove computation", {"computation": computation, "states": states, "timers": timers})
        pipe.execute()
    return timers


def _alarms(client: redis.Redis, delayed: str, computation: str) -> Iterator[list[bytes]]:
    """The alarms of a computation's timers, in pages."""
    begin = timer_task(computation, "x")[:-1]
    entries = (entry for entry, _ in client.zscan_iter(delayed, match="@*", count=PAGE))
    found = (entry for entry in entries if str(msgspec.json.decode(entry[1 : entry.index(b"\n")])).startswith(begin))
    while page := list(islice(found, PAGE)):
        yield page
