"""Counts when the keys of a computation with `ttl=` expire, and starts the time of keys that were stored before it had one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from celery_partitions.admin.audit import Audit
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import SetupError, StateError
from celery_partitions.model.keys import key_text
from celery_partitions.model.message_writer import MessageTemplate, escape, escape_header, json_text
from celery_partitions.model.timers import EXPIRY, NO_TIMERS
from celery_partitions.store.scripts import digest_of
from celery_partitions.store.states import StateReader

#: Records per round trip.
PAGE = 1000


@dataclass(slots=True)
class Expiring:
    """The keys of a computation, by what happens to them."""

    keys: int = 0
    #: They are due, and expire when their partition's worker comes to it.
    due: int = 0
    in_a_day: int = 0
    later: int = 0
    #: They were stored before the computation had a `ttl=`, and do not expire until they are used, or `start` is called.
    without: int = 0
    unreadable: int = 0
    #: Partition → the keys counted in `without`.
    waiting: dict[str, list[str]] = field(default_factory=dict, repr=False)


def count_expiring(states: StateReader, computation: Computation, now: float) -> Expiring:
    """Look at every key. `now`: the server's time. Raises `SetupError` for a computation without `ttl=`."""
    if computation.ttl_ms is None:
        raise SetupError(f"{computation.name!r} has no ttl=, so its keys do not expire")
    found = Expiring()
    for partition, key, stored in _records(states, computation):
        found.keys += 1
        try:
            entry = (states.codec.timers(stored) or NO_TIMERS).get(EXPIRY)
        except StateError:
            found.unreadable += 1
            continue
        if entry is None:
            found.without += 1
            found.waiting.setdefault(partition, []).append(key)
        elif entry.due <= now * 1000:
            found.due += 1
        elif entry.due <= (now + 86_400) * 1000:
            found.in_a_day += 1
        else:
            found.later += 1
    return found


def start_expiry(states: StateReader, audit: Audit, computation: Computation, found: Expiring, *, by: str) -> int:
    """Start the time of the keys that have none, by a message to each. Returns their number."""
    task = computation.handlers[EXPIRY].name
    count = 0
    for partition, keys in found.waiting.items():
        queue = states.names.queue_name(partition)
        template = MessageTemplate.small(task, queue, "expire")
        for start in range(0, len(keys), PAGE):
            raws = [
                template.fill(
                    escape(f"expire-{digest_of(key.encode('utf-8', 'surrogateescape'))}"),
                    json_text(None),
                    b"[[],{},{}]",
                    b',"parent_id":null,"partition_key":' + escape_header(key),
                )
                for key in keys[start : start + PAGE]
            ]
            states.client.lpush(states.names.queue(partition), *raws)
            count += len(raws)
    with states.client.pipeline(transaction=False) as pipe:
        audit.add(pipe, by, "expire", {"computation": computation.name, "keys": count})
        pipe.execute()
    return count


def _records(states: StateReader, computation: Computation) -> Iterator[tuple[str, str, bytes]]:
    for number in range(states.topology.served):
        for name in (*computation.formerly, computation.name):
            for field_, stored in states.client.hscan_iter(states.names.states(str(number), name), count=PAGE):
                yield str(number), key_text(cast(bytes, field_)), cast(bytes, stored)
