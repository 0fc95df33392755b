"""Replacing this process by a new one of the same command line: the last resort against code that can't be interrupted."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

import redis
from celery.worker import state as worker_state

from celery_partitions.store.client import connect
from celery_partitions.store.isolation import note_hang
from celery_partitions.store.leases import Lease, leases_of, release
from celery_partitions.store.names import Names
from celery_partitions_config.settings import Settings

logger = logging.getLogger("celery.worker.partitions")


def is_told_to_end() -> bool:
    """Whether a signal has told the worker to end. Celery keeps the exit code there, and 0 is one."""
    flags = (worker_state.should_stop, worker_state.should_terminate)
    return any(flag is not None and flag is not False for flag in flags)


def replace_process(settings: Settings, names: Names, worker: str, lease: Lease, raw: bytes, why: str) -> None:
    """Note in Redis that the message `raw` hangs, give all leases up, and begin anew under the same process id. Never returns.

    What was under way is not committed and stays in its queue. Where Redis does not answer, the leases end by themselves, and
    the message counts as one over which a worker died. A worker that was told to end does not begin anew: it ends.
    """
    with suppress(redis.RedisError, OSError):
        client = connect(settings)  # the loop's own connections may be in the middle of anything
        note_hang(client, names, lease, raw, why, settings.batch_messages)
        release(client, names, worker, leases_of(client, names, worker), leave=True)
    logging.shutdown()
    if is_told_to_end():
        os._exit(0)
    # Connections are closed with the old program: Python opens them so that they are not inherited.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line
