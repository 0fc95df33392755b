"""Finds timers and delayed messages that still have a former name of a computation (`formerly=`), and renames the timers.

Until then `formerly=` must stay in the code: a timer that becomes due under a name that nobody knows would wait as a message of an unknown
task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.messages import name_of
from celery_partitions.model.timers import alarm_entry, key_of_alarm
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script

#: Entries read, and timers renamed, in one round trip.
PAGE = 1000


@dataclass(slots=True)
class FormerNames:
    """What has a former name of a computation."""

    computation: str
    timers: int = 0
    messages: int = 0


def delayed_with_former_names(
    client: redis.Redis, names: Names, partitions: Iterable[str], computations: Iterable[Computation], *, write: bool
) -> list[FormerNames]:
    """Read all delayed messages of the partitions. `write`: rename the timers. Workers may run meanwhile."""
    found, tasks = {}, {}
    for one in computations:
        if one.formerly:
            found[one.name] = FormerNames(one.name)
        for each in (one, *one.handlers.values()):
            tasks.update(dict.fromkeys(each.former_names, (one.name, each.name)))
    for partition in partitions:
        cursor = -1
        while cursor:
            page: Any = client.zscan(names.delayed(partition), max(cursor, 0), count=PAGE)
            cursor, entries = page
            renamed: list[bytes] = []
            for entry, _ in cast(list[tuple[bytes, float]], entries):
                key = key_of_alarm(entry)
                if key is None:
                    use = tasks.get(name_of(entry.partition(b":")[2])[0] or "")
                    if use is not None:
                        found[use[0]].messages += 1
                elif (use := tasks.get(msgspec.json.decode(entry[1 : entry.index(b"\n")]))) is not None:
                    found[use[0]].timers += 1
                    renamed += entry, alarm_entry(use[1], key)
            if write and renamed:
                script("rename_alarms").run(client, [names.delayed(partition)], renamed)
    return list(found.values())
