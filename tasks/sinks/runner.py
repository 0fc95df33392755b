"""A sink's process: an ordinary Celery worker that serves the sink's own group and consumes nothing else."""

from __future__ import annotations

import os
import re
import sys
import uuid
from typing import Any

from celery.utils.nodenames import host_format

from celery_partitions.runtime.installation import Installation


def run_sink(installation: Installation, name: str, loglevel: str) -> int:
    """Deliver until the process is asked to stop. Returns its exit code. `installation`: from `sink_installation`."""
    node = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
    worker: Any = installation.app.Worker(
        hostname=host_format(f"sink-{node}-{uuid.uuid4().hex[:6]}@%h"),
        pool_cls="solo",
        concurrency=1,
        loglevel=loglevel,
        queues=[installation.group.names.group],
        # Standard output may belong to the sink, so the worker must not print its banner.
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        partition_installation=installation,
    )
    worker.start()
    return int(worker.exitcode or 0)


def keep_standard_output() -> int:
    """Reserve standard output for the sink and return its file descriptor.

    Anything else that writes there (Celery does when it stops) goes to standard error.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept
