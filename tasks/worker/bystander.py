"""Says at the start of a worker that serves no partitions that its app's computations wait for one that does."""

from __future__ import annotations

import logging
from typing import Any

import redis

from celery_partitions.admin.workers import read_workers
from celery_partitions.model.errors import PartitionError
from celery_partitions.runtime.installation import Installation
from celery_partitions_config.settings import SettingsError

logger = logging.getLogger("celery.worker.partitions")


def warn_if_nobody_computes(installation: Installation, options: dict[str, Any]) -> None:
    """Log a warning if no worker of the group runs. Not if the command line names this worker's queues: then somebody has thought about it."""
    if options.get("queues") or options.get("exclude_queues") or not installation.computations:
        return
    try:
        group = installation.group
        workers = read_workers(group.client, group.names)
    except (PartitionError, SettingsError, redis.RedisError, OSError):
        return  # the worker may not need what is wrong here
    if not workers:
        logger.warning(
            "partitions: this worker runs no computations (%s), and no partition worker runs. Start one: celery -A APP worker -P solo -c 1 -Q %s",
            ", ".join(sorted(installation.computations)), group.names.group,
        )
