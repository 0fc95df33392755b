"""For which tasks messages wait in the queues: exact for short queues, an estimate for long ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import redis

from celery_partitions.store.decoding import decoded
from celery_partitions.store.scripts import script

_decode = msgspec.json.Decoder(str).decode

#: Messages read of each half of a queue.
SAMPLED = 25


class WaitingTasks(NamedTuple):
    """How many messages wait, by task."""

    counts: dict[str, int]
    #: Every message was read.
    is_exact: bool


def waiting_tasks(client: redis.Redis, queues: Sequence[str]) -> WaitingTasks:
    """Count the messages of the queues by task, in one round trip. What was read of a long queue stands for all of it."""
    counts: Counter[str] = Counter()
    exact = True
    for answer in script("waiting_tasks").run_many(client, [([queue], [SAMPLED]) for queue in queues]):
        if isinstance(answer, redis.RedisError):  # this Redis user may not run scripts, or one of several servers is away
            exact = False
            continue
        length, *tasks = answer
        exact = exact and length <= len(tasks)
        for task, many in Counter(tasks).items():
            counts[decoded(_decode, task) or ""] += round(many * length / len(tasks))
    return WaitingTasks(dict(counts), exact)
