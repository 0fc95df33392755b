"""What a group's processes have to agree on: how many partitions it has, and how its keys in Redis are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from celery_partitions.model.errors import SetupError
from celery_partitions.store.names import Names

#: The layout of keys that `names.py` describes. Raise it whenever an older release could not read, or would spoil, what this one writes.
LAYOUT = 2


@dataclass(frozen=True, slots=True)
class Topology:
    """How a group is divided. `epoch` grows when the number of partitions changes."""

    epoch: int
    partitions: int


def agree_on_topology(client: redis.Redis, names: Names, partitions: int) -> Topology:
    """Begin the group if nobody has, with N partitions. Raise `SetupError` when it has another N, or another layout of keys.

    Called once by each process before it sends or takes anything. Changing N would move keys away from their states.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.hget(names.older_group_meta, "partitions")
        pipe.hmget(names.group_meta, ["layout", "partitions", "epoch"])
        older, found = pipe.execute(raise_on_error=False)
    if isinstance(found, Exception):
        raise found
    if found[1] is None:
        if isinstance(older, bytes) and older.isdigit():
            raise _older_layout(names)
        found = _begin(client, names, partitions)
    layout, number, epoch = found
    refuse_other_layout(names, layout)
    if int(number) != partitions:
        raise SetupError(
            f"partition group {names.group!r} has {int(number)} partitions in this Redis, and this process was started with "
            f"PARTITIONS={partitions}. Start it with PARTITIONS={int(number)}, or use another PARTITIONS_GROUP. N is changed by `partitions export` "
            "and `partitions import --replace`"
        )
    return Topology(int(epoch or 0), partitions)


def refuse_other_layout(names: Names, layout: bytes | None) -> None:
    """Raise `SetupError` for a group whose `layout` is not this release's. None: the group has not said."""
    if layout is not None and layout != b"%d" % LAYOUT:
        shown = layout.decode("ascii", "backslashreplace")[:20]
        raise SetupError(
            f"partition group {names.group!r} has layout {shown} of keys in this Redis, and this release knows layout {LAYOUT}. Start the "
            "release that made the group. To move the group to this one: stop all its workers, `partitions export FILE` with that release, "
            "and `partitions import FILE --replace` with this one"
        )


def _begin(client: redis.Redis, names: Names, partitions: int) -> Any:
    """Write the group's layout and N; another process may have been first. Raises what the server refuses."""
    with client.pipeline(transaction=True) as pipe:
        pipe.hsetnx(names.group_meta, "layout", LAYOUT)
        pipe.hsetnx(names.group_meta, "partitions", partitions)
        pipe.hmget(names.group_meta, ["layout", "partitions", "epoch"])
        return pipe.execute()[-1]


def _older_layout(names: Names) -> SetupError:
    return SetupError(
        f"this Redis has partition group {names.group!r} in an older layout of keys ({names.older_group_meta!r}), which this release can't "
        "read. Stop all its workers and write it to a file with the release that made it (`partitions export FILE`), delete the keys that "
        f"begin with '{names.root}:', and read the file with this release (`partitions import FILE --replace`). Or use another "
        "PARTITIONS_GROUP"
    )
