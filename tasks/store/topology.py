"""What all processes of a group must agree on: the number of partitions, and the layout of the keys in Redis."""

from __future__ import annotations

from typing import Any

import redis

from celery_partitions.model.errors import SetupError
from celery_partitions.model.topology import Topology
from celery_partitions.store.names import Names
from celery_partitions.store.programs import Program, run
from celery_partitions.store.server import CLUSTER, CLUSTER_ERRORS

#: The version of the key layout in `names.py`. Increase it if an older release could not read, or would damage, what this one writes.
LAYOUT = 3
#: A group that was resized has this layout: older releases of layout 3 would not follow another number, and refuse it.
RESIZED_LAYOUT = "3.1"
_LAYOUTS = (str(LAYOUT).encode(), RESIZED_LAYOUT.encode())

_FIELDS = ("layout", "partitions", "epoch", "former", "highest", "moving", "back")


def agree_on_topology(client: redis.Redis, names: Names, partitions: int) -> Topology:
    """Run `agreement` with a client."""
    return run(client, agreement(names, partitions))


def agreement(names: Names, partitions: int) -> Program[Topology]:
    """Create the group with this number of partitions, if it does not exist. Returns the topology in Redis.

    Raises `SetupError` if the group has another key layout; or another number of partitions, unless that is from a resize. Each process calls it
    before it sends or takes anything: with another number, keys would not find their states.
    """

    def look(client: Any) -> Any:
        pipe = client.pipeline(transaction=False)
        pipe.hget(names.older_group_meta, "partitions")
        pipe.hmget(names.group_meta, _FIELDS)
        return pipe.execute(raise_on_error=False)

    older, found = yield look
    if isinstance(older, CLUSTER_ERRORS) or isinstance(found, CLUSTER_ERRORS):
        raise SetupError(CLUSTER)
    if isinstance(found, Exception):
        raise found
    if found[1] is None:
        if isinstance(older, bytes) and older.isdigit():
            raise _older_layout(names)
        found = (yield lambda client: _begin(client, names, partitions))[-1]
    topology = topology_of(names, found, partitions)
    if topology.partitions != partitions and not topology.epoch:
        raise SetupError(
            f"partition group {names.group!r} has {topology.partitions} partitions in this Redis, but this process was started with "
            f"PARTITIONS={partitions}. Start it with PARTITIONS={topology.partitions}, or use another PARTITIONS_GROUP. To change the number of "
            "partitions, use `partitions resize`"
        )
    return topology


def read_topology(client: redis.Redis, names: Names, default: int) -> Topology:
    """The topology in Redis now. `default`: the number of partitions of a group that does not exist. Raises `SetupError` for another key layout."""
    return topology_of(names, client.execute_command(*topology_command(names)), default)


def topology_command(names: Names) -> tuple[str, ...]:
    """The command whose answer `topology_of` reads. For code that sends it together with others."""
    return ("HMGET", names.group_meta, *_FIELDS)


def topology_of(names: Names, found: Any, default: int) -> Topology:
    """The topology in an answer to `topology_command`. Raises as `read_topology`, or the server's error if it is the answer."""
    if isinstance(found, Exception):
        raise found
    layout, number, epoch, former, highest, moving, back = found
    refuse_other_layout(names, layout)
    return Topology(int(epoch or 0), int(number or default), None if former is None else int(former), int(highest or 0), moving is not None, back is not None)


def refuse_other_layout(names: Names, layout: bytes | None) -> None:
    """Raise `SetupError` if a group's key layout is not this release's. `layout` None: unknown, which is accepted."""
    if layout is not None and layout not in _LAYOUTS:
        shown = layout.decode("ascii", "backslashreplace")[:20]
        raise SetupError(
            f"partition group {names.group!r} has key layout {shown} in this Redis, but this release supports only layout {LAYOUT}. Use the "
            "release that created the group. To move the group to this release: stop all its workers, run `partitions export FILE` with the "
            "other release, then `partitions import FILE --replace` with this one"
        )


def _begin(client: Any, names: Names, partitions: int) -> Any:
    """Write the group's layout and number of partitions, unless another process was first. Raises the server's errors."""
    pipe = client.pipeline(transaction=True)
    pipe.hsetnx(names.group_meta, "layout", LAYOUT)
    pipe.hsetnx(names.group_meta, "partitions", partitions)
    pipe.hmget(names.group_meta, _FIELDS)
    return pipe.execute()


def _older_layout(names: Names) -> SetupError:
    return SetupError(
        f"this Redis has partition group {names.group!r} in an older key layout ({names.older_group_meta!r}), which this release can't "
        "read. To keep its data: stop all its workers, run `partitions export FILE` with the release that created it, delete the keys "
        f"that begin with '{names.root}:', and run `partitions import FILE --replace` with this release. Or use another PARTITIONS_GROUP"
    )
