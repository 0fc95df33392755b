"""The limit of a partition's queue (`PARTITIONS_QUEUE_MAX_LENGTH`). Python producers check the queue's length before they push.

The queue is a plain list, so the limit is only a convention. Pushes without the check are not refused: from other languages, the
ingress, retries, and workers that forward. Producers that check at the same moment may together exceed the limit, by what each of them
pushes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import redis

from celery_partitions.model.errors import QueueFull
from celery_partitions.store.names import Names
from celery_partitions.store.programs import Pause, Program, run

#: Time between two checks of a full queue. The first is a few batches of a worker; the longest still feels immediate to an operator.
FIRST_LOOK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 1.0

#: False in a worker while it sends what follows a message. Refusing that would block the worker's own queue.
looks_for_room: ContextVar[bool] = ContextVar("partitions_looks_for_room", default=True)


class Backlog:
    """Checks whether queues have room. `limit` 0: no limit, and Redis is not asked."""

    def __init__(self, client: redis.Redis, names: Names, limit: int) -> None:
        self.client, self.names, self.limit = client, names, limit

    def refuse(self, wanted: Mapping[str, int]) -> None:
        """Run `refusal` with the client."""
        run(self.client, self.refusal(wanted))

    def refusal(self, wanted: Mapping[str, int]) -> Program[None]:
        """Raise `QueueFull` for the first partition without enough room. `wanted`: partition → number of messages to push."""
        if not self.limit or not wanted or not looks_for_room.get():
            return

        def measure(client: Any) -> Any:
            pipe = client.pipeline(transaction=False)
            for partition in wanted:
                pipe.llen(self.names.queue(partition))
            return pipe.execute()

        lengths = yield measure
        for (partition, count), length in zip(wanted.items(), lengths, strict=True):
            if length + count > self.limit:
                raise QueueFull(self.names.queue_name(partition), length, self.limit)

    def waiting(self, wanted: Mapping[str, int]) -> Program[None]:
        """Wait until there is room; forever, if no worker takes messages. The checks become less frequent, and are randomized so that
        producers do not check at the same moment."""
        seconds = FIRST_LOOK_SECONDS
        while True:
            try:
                return (yield from self.refusal(wanted))
            except QueueFull:
                yield Pause(seconds * random.uniform(0.5, 1))
                seconds = min(seconds * 2, LONGEST_LOOK_SECONDS)
