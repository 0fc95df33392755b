"""Finds what takes messages out of a partition's queue besides its owner: workers whose app has no `install`, so kombu consumes the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from celery_partitions.admin.workers import WorkerStatus
from celery_partitions.store.measurements import measurements_in, request_measurements
from celery_partitions.store.names import Names, partitions_and_ingress

#: How long Celery workers may take to answer.
ANSWER_SECONDS = 1.0
#: How long a removal is reported. Workers notice one while messages arrive, so a quiet hour proves nothing; an older one is history.
REPORTED_SECONDS = 600.0


def ask_for_consumers(app: Celery) -> dict[str, list[str]]:
    """The queues that each Celery worker says it consumes, by node name. Empty if the broker can't be reached or refuses remote control."""
    try:
        answers: Mapping[str, Any] = app.control.inspect(timeout=ANSWER_SECONDS).active_queues() or {}
    except (OperationalError, redis.RedisError, OSError):
        return {}
    return {node: [str(queue.get("name")) for queue in queues if isinstance(queue, dict)] for node, queues in answers.items() if isinstance(queues, list)}


def describe_foreign_consumers(
    client: redis.Redis, names: Names, partitions: int, workers: Sequence[WorkerStatus], consumers: Mapping[str, Sequence[str]], now: float
) -> str | None:
    """What is wrong, and the fix; None if nothing is. `consumers`: as from `ask_for_consumers`; `now`: the server's time."""
    fix = "That breaks the order of their messages: stop it, or add install(app) to its app"
    ours = {worker.node for worker in workers}
    found = {
        node: sorted(queue for queue in queues if names.partition_of_queue(queue) is not None)
        for node, queues in consumers.items()
        if node not in ours
    }
    strangers = [f"{node} ({', '.join(queues)})" for node, queues in sorted(found.items()) if queues]
    if strangers:
        return f"not only partition workers consume the partitions' queues: {'; '.join(strangers)}. {fix}"
    every = partitions_and_ingress(partitions)
    with client.pipeline(transaction=False) as pipe:
        request_measurements(pipe, names, every)
        (answer,) = pipe.execute()
    removals = {
        names.queue_name(partition): now - one.last_removal.at
        for partition, one in measurements_in(answer, every).items()
        if one.last_removal is not None and now - one.last_removal.at < REPORTED_SECONDS
    }
    if not removals:
        return None
    text = f"something other than their workers removed messages from {', '.join(removals)}, {min(removals.values()):.0f} s ago at last"
    return f"{text}. Is it a Celery worker or a script that consumes these queues? {fix}. After `celery purge` this goes by itself"
