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
from kombu.exceptions import OperationalError

from celery_partitions.store.client import UNWELL
from celery_partitions.worker.backoff import Backoff

#: A connection that lasted longer was no failed try.
LASTING_SECONDS = 10.0


def make_patient(worker: Any, client: redis.Redis) -> None:
    """Before the worker makes its consumer. `client` reaches the broker."""
    worker.app.conf.broker_channel_error_retry = True
    base: Any = symbol_by_name(worker.consumer_cls)

    class PatientConsumer(base):  # type: ignore[misc]
        """Outlives what a server in trouble answers, and does not try each moment: that would fill the log."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            # What kombu and redis-py raise in the middle of starting, while Celery looks for other workers, say.
            self.connection_errors: tuple[type[BaseException], ...] = (*self.conninfo.connection_errors, OperationalError, redis.RedisError, OSError)
            self._backoff = Backoff(random.random)
            self._connected_at: float | None = None

        def connect(self) -> Any:
            now = time.monotonic()
            if self._connected_at is not None:
                if now - self._connected_at > LASTING_SECONDS:
                    self._backoff.worked()
                time.sleep(self._backoff.next_seconds())
            while is_replica(client):
                maybe_shutdown()
                time.sleep(self._backoff.next_seconds())
            self._connected_at = time.monotonic()
            return super().connect()

    worker.consumer_cls = PatientConsumer


def is_replica(client: redis.Redis) -> bool:
    """Whether the server says that it is one; False where it says nothing."""
    try:
        return str(client.info("replication").get("role", "master")) != "master"
    except (redis.ResponseError, *UNWELL):
        return False
