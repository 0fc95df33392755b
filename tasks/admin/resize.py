"""Resize: gives a group another number of partitions while everything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.model.errors import SetupError
from celery_partitions.model.topology import Topology
from celery_partitions.store.names import Names, partitions_and_ingress
from celery_partitions.store.resize import SETTLED_SECONDS, begin_resize, finish_resize
from celery_partitions.store.topology import read_topology
from celery_partitions_config.parsers import MAX_PARTITIONS

#: Keys that have not moved after this time need a look.
SLOW_RESIZE_SECONDS = 60.0

State = Literal["none", "moving", "waiting for producers"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a resize is."""

    state: State
    partitions: int
    #: The number before. None: no resize is in progress.
    former: int | None
    epoch: int
    #: It undoes a resize that was not finished.
    back: bool
    #: How many partitions take part, how many of them have stopped applying messages by the former number, and from how many the keys have moved.
    total: int
    stopped: int
    moved: int
    #: Messages that wait until older ones have passed: in the queues, and admitted already.
    waiting: int
    admitted: int
    #: Seconds since the resize began, and since a message for the former number came. None: unknown, or none came.
    seconds: float | None
    last_passed_on_seconds: float | None
    #: Partitions whose keys have not moved.
    not_moved: tuple[str, ...]


def read_progress(client: redis.Redis, names: Names, default: int) -> Progress:
    """How far the group's resize is. `default`: the number of partitions of a group that does not exist. Raises `SetupError` for another layout."""
    topology = read_topology(client, names, default)
    every = partitions_and_ingress(topology.served)
    waiting = [str(number) for number in range(topology.partitions) if topology.sources(number)]
    with client.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.hmget(names.group_meta, ["resized", "back"])
        for partition in every:
            pipe.hmget(names.meta(partition), ["epoch", "moved", "passed_on"])
        for partition in waiting:
            pipe.llen(names.queue(partition))
            pipe.llen(names.inbox(partition))
        (seconds, micros), (resized, back), *rows = pipe.execute()
    now = (seconds + micros / 1_000_000) * 1000
    metas = [[int(one or 0) for one in row] for row in rows[: len(every)]]
    lengths = cast(list[int], rows[len(every) :])
    not_moved = tuple(partition for partition, row in zip(every, metas, strict=True) if row[1] < topology.epoch)
    last = max((row[2] for row in metas), default=0)
    is_on = topology.former is not None
    state: State = "none" if not is_on else "moving" if not_moved else "waiting for producers"
    return Progress(
        state=state,
        partitions=topology.partitions,
        former=topology.former,
        epoch=topology.epoch,
        back=back is not None,
        total=len(every),
        stopped=sum(row[0] >= topology.epoch for row in metas),
        moved=len(every) - len(not_moved),
        waiting=sum(lengths[::2]),
        admitted=sum(lengths[1::2]),
        seconds=(now - int(resized)) / 1000 if is_on and resized is not None else None,
        last_passed_on_seconds=(now - last) / 1000 if is_on and last >= int(resized or 0) and last else None,
        not_moved=not_moved if is_on else (),
    )


def describe(progress: Progress) -> str:
    """A resize in words."""
    if progress.state == "none":
        return f"no resize is in progress; the group has {progress.partitions} partitions"
    back = " (undoes a resize)" if progress.back else ""
    first = f"from {progress.former} to {progress.partitions} partitions{back}, begun {progress.seconds or 0:.0f} s ago"
    if progress.state == "moving":
        rest = ", ".join(progress.not_moved[:10]) + (", …" if len(progress.not_moved) > 10 else "")
        return (
            f"{first}: the keys of {progress.moved} of {progress.total} partitions have moved. Not yet: {rest}. A partition moves its keys when "
            "a worker holds it; see `partitions workers`"
        )
    last = progress.last_passed_on_seconds
    seen = "no message came for the former number" if last is None else f"the last message for the former number came {last:.0f} s ago"
    return (
        f"{first}: all keys have moved; {seen}; {progress.waiting + progress.admitted} messages in partitions that got keys. It is finished 10 minutes "
        "after the last such message, or with --finish"
    )


class Resize:
    """Begins, undoes and finishes resizes. `default`: the number of partitions of a group that does not exist."""

    def __init__(self, client: redis.Redis, names: Names, default: int, settled_seconds: float = SETTLED_SECONDS) -> None:
        self.client, self.names, self.default, self.settled_seconds = client, names, default, settled_seconds

    def begin(self, partitions: int, *, by: str) -> Topology:
        """Give the group another number of partitions. Returns when the workers know it, not when the keys have moved. Raises `SetupError`."""
        topology = read_topology(self.client, self.names, self.default)
        before = topology.partitions
        if topology.former is not None:
            raise SetupError(
                f"a resize from {topology.former} to {before} partitions is not finished. `partitions resize --status` shows how far it is, "
                "`partitions resize --abort` undoes it, and `partitions resize --finish` ends it once no producer sends for the former number"
            )
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise SetupError(f"{partitions} is not a valid number of partitions: expected an integer from 1 to {MAX_PARTITIONS:,}")
        if partitions == before:
            raise SetupError(f"the group has {partitions} partitions already")
        if partitions % before and before % partitions:
            near = [before * 2, *(before // small for small in (2, 3, 5) if before % small == 0)]
            raise SetupError(
                f"the group has {before} partitions, and {partitions} is neither a multiple nor a divisor of it. Choose for example "
                f"{' or '.join(map(str, near))}, or go there in two steps"
            )
        return self._begin(topology, partitions, by, back=False)

    def abort(self, *, by: str) -> Topology:
        """Go back to the number before. Keys that have moved move back, so this is a resize too. Raises `SetupError`."""
        topology = self._unfinished()
        if self.client.hget(self.names.group_meta, "back") is not None:
            raise SetupError(
                f"the group goes back to {topology.partitions} partitions already. Wait until it is finished (`partitions resize --status`), then "
                "resize again"
            )
        assert topology.former is not None
        if self.names.is_spread and topology.partitions < topology.former:
            raise SetupError(
                "on several servers (PARTITIONS_URL), a resize to fewer partitions cannot be undone. It goes on; resize again when it is finished "
                "(`partitions resize --status`)"
            )
        return self._begin(topology, topology.former, by, back=True)

    def finish(self, *, by: str, said: str) -> bool:
        """End a resize whose keys have moved, because no producer sends for the former number any more. False: messages may be left that were sent for
        it; call it again with the same `said`, a new id. Raises `SetupError`."""
        topology = self._unfinished()
        audit = Audit(self.client, self.names).words(by, "resize finish", {"partitions": topology.partitions, "former": topology.former})
        status, which = finish_resize(self.client, self.names, topology, audit, said=said, quiet_seconds=self.settled_seconds)
        if status == "moving":
            queue = self.names.queue_name(partitions_and_ingress(topology.served)[which])
            raise SetupError(
                f"the keys of {queue} have not moved yet. Wait; if `partitions resize --status` does not change, see whether a worker holds "
                "this partition"
            )
        if status == "changed":
            raise SetupError("the resize has just been finished or undone. Look with `partitions resize --status`")
        return status == "ok"

    def _unfinished(self) -> Topology:
        topology = read_topology(self.client, self.names, self.default)
        if topology.former is None:
            raise SetupError(f"no resize is in progress: the group has {topology.partitions} partitions")
        return topology

    def _begin(self, topology: Topology, partitions: int, by: str, *, back: bool) -> Topology:
        detail = {"partitions": partitions, "before": topology.partitions}
        audit = Audit(self.client, self.names).words(by, "resize abort" if back else "resize", detail)
        status, what = begin_resize(self.client, self.names, topology, partitions, audit, back=back)
        if status == "old":
            raise SetupError(
                f"worker {what.rpartition('/')[0] or what} runs a release that cannot follow a resize. Upgrade it first. If it has only just "
                "started, try again"
            )
        if status == "late":
            what = "all keys have moved" if self.names.is_spread else "keys have moved together"
            raise SetupError(
                f"{what} already, so this resize cannot be undone. It goes on; resize again when it is finished "
                "(`partitions resize --status`)"
            )
        if status == "changed":
            raise SetupError("another resize has just begun. Look with `partitions resize --status`")
        return read_topology(self.client, self.names, self.default)



