"""Replaces this process by a new one with the same command line: the last resort against code that cannot be interrupted."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

import redis
from celery.worker import state as worker_state

from celery_partitions.store.isolation import note_hang
from celery_partitions.store.leases import Lease, leases_of, release
from celery_partitions.store.names import Names
from celery_partitions.store.servers import connect_group
from celery_partitions_config.settings import Settings

logger = logging.getLogger("celery.worker.partitions")


def is_stopping() -> bool:
    """Whether a signal asked the worker to stop. Celery's flags hold the exit code, which may be 0."""
    flags = (worker_state.should_stop, worker_state.should_terminate)
    return any(flag is not None and flag is not False for flag in flags)


def replace_process(settings: Settings, names: Names, worker: str, lease: Lease, raw: bytes, why: str) -> None:
    """Record in Redis that the message `raw` hangs, release all leases, and restart under the same process id. Never returns.

    Uncommitted messages stay in their queues. If Redis does not answer, the leases expire by themselves and the message counts as
    one that killed a worker. A worker that was asked to stop exits instead of restarting.
    """
    with suppress(redis.RedisError, OSError):
        client = connect_group(settings, names.root)  # the loop's own connections may be in the middle of a command
        note_hang(client, names, lease, raw, why, settings.batch_messages)
        release(client, names, worker, leases_of(client, names, worker), leave=True)
    logging.shutdown()
    if is_stopping():
        os._exit(0)
    # `exec` closes the connections: Python opens sockets as non-inheritable.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line
