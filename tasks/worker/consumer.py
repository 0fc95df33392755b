"""Celery's own consumer in a partition worker: it outlives what kombu takes for the end of the process.

A server that becomes a replica ends blocking commands with UNBLOCKED, and refuses writes with READONLY; a full one refuses
with OOM. Celery's consumer takes these as errors of the program and ends the worker; here it connects anew.
"""

from __future__ import annotations

import random
import time
from typing import Any

import redis
from celery.utils.imports import symbol_by_name
from celery.worker.state import maybe_shutdown

from celery_partitions.store.client import UNWELL
from celery_partitions.worker.backoff import Backoff


def make_patient(worker: Any, client: redis.Redis) -> None:
    """Before the worker makes its consumer. `client` reaches the broker."""
    worker.app.conf.broker_channel_error_retry = True
    base: Any = symbol_by_name(worker.consumer_cls)

    class PatientConsumer(base):  # type: ignore[misc]
        """While the server is a read-only replica nothing can be consumed, and a try each moment would fill the log."""

        def connect(self) -> Any:
            backoff = Backoff(random.random)
            while is_replica(client):
                maybe_shutdown()
                time.sleep(backoff.next_seconds())
            return super().connect()

    worker.consumer_cls = PatientConsumer


def is_replica(client: redis.Redis) -> bool:
    """Whether the server says that it is one; False where it says nothing."""
    try:
        return str(client.info("replication").get("role", "master")) != "master"
    except (redis.ResponseError, *UNWELL):
        return False
