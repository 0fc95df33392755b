"""Counts an application's unprocessed messages, all in one transaction: otherwise a message that moves could be missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from celery_partitions.store.names import PRIORITY_SUFFIXES, Names, partitions_and_ingress


@dataclass(frozen=True, slots=True)
class Waiting:
    """Messages in partition queues, and outputs in the queues of sinks. A parked key counts as one."""

    messages: int
    outputs: dict[str, int]
    #: Dead letters of both.
    dead: int

    def __bool__(self) -> bool:
        return bool(self.messages or any(self.outputs.values()))

    def __str__(self) -> str:
        parts = [f"{count} outputs for {sink}" for sink, count in self.outputs.items() if count]
        return ", ".join([f"{self.messages} messages", *parts] if self.messages else parts) or "nothing"


def look(client: redis.Redis, names: Names, partitions: int, sinks: Sequence[str]) -> Waiting:
    """Count the messages of a group and of its sinks with a process.

    Timers are not counted: an open window is not unfinished work.
    """
    groups = [(names, partitions_and_ingress(partitions)), *((Names(names.sink_group(sink), names.prefix), partitions_and_ingress(1)) for sink in sinks)]
    with client.pipeline(transaction=not names.is_spread) as pipe:
        for group, own in groups:
            for partition in own:
                queue = group.queue(partition)
                for name in (queue, *(queue + suffix for suffix in PRIORITY_SUFFIXES)):
                    pipe.llen(name)
                pipe.hlen(group.parked(partition))
                pipe.hlen(group.dead(partition))
        answers = iter(pipe.execute())
    counts, dead = [], 0
    for _, own in groups:
        count = 0
        for _ in own:
            count += sum(next(answers) for _ in range(2 + len(PRIORITY_SUFFIXES)))
            dead += next(answers)
        counts.append(count)
    return Waiting(counts[0], dict(zip(sinks, counts[1:], strict=True)), dead)
