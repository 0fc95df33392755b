"""The limit of a partition's queue (`PARTITIONS_QUEUE_MAX_LENGTH`), as Python producers keep it: a look before the push.

The queue is a plain list, so the limit is what producers agree on: whoever pushes without looking (another language, the
ingress, a retry, a worker that forwards) is not refused, and producers that look at the same moment may together go past
it by what each of them had under way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from contextvars import ContextVar

import redis

from celery_partitions.model.errors import QueueFull
from celery_partitions.store.names import Names

#: Between two looks at a full queue: the first wait is some batches of a worker, the longest what an operator takes for at once.
FIRST_LOOK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 1.0

#: False in a worker that pushes what follows a message, in its commit: that is not refused, or the queue before would stand still.
looks_for_room: ContextVar[bool] = ContextVar("partitions_looks_for_room", default=True)


class Backlog:
    """Says whether messages fit. `limit` 0: they always do, and nothing is asked."""

    def __init__(self, client: redis.Redis, names: Names, limit: int) -> None:
        self.client, self.names, self.limit = client, names, limit

    def refuse(self, wanted: Mapping[str, int]) -> None:
        """`wanted`: partition → messages that are to be pushed. Raises `QueueFull` for the first that has no room for them."""
        if not self.limit or not wanted or not looks_for_room.get():
            return
        with self.client.pipeline(transaction=False) as pipe:
            for partition in wanted:
                pipe.llen(self.names.queue(partition))
            lengths = pipe.execute()
        for (partition, count), length in zip(wanted.items(), lengths, strict=True):
            if length + count > self.limit:
                raise QueueFull(self.names.queue_name(partition), length, self.limit)

    def wait(self, wanted: Mapping[str, int]) -> None:
        """Until there is room; for ever, where no worker makes any. Looks less and less often, each producer at times of its own."""
        seconds = FIRST_LOOK_SECONDS
        while True:
            try:
                return self.refuse(wanted)
            except QueueFull:
                time.sleep(seconds * random.uniform(0.5, 1))
                seconds = min(seconds * 2, LONGEST_LOOK_SECONDS)
