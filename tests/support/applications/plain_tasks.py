"""A plain Celery task, for tests that put one into a partition's queue.

Added to another application's worker with `-I tests.support.applications.plain_tasks`.
"""

from __future__ import annotations

import os

import redis

from celery_partitions import app

__all__ = ["PLAIN_RAN", "app", "plain"]

#: The list that `plain` appends its argument to, in the server and database of `REDIS_URL`.
PLAIN_RAN = "plain-ran"


@app.task(name="plain")
def plain(x: int) -> int:
    """Append `x` to `PLAIN_RAN`, and return it."""
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        client.rpush(PLAIN_RAN, x)
    return x
