"""Celery's own consumer in a partition worker: it reconnects after errors that would otherwise end the worker.

A server that becomes a replica ends blocking commands with UNBLOCKED and refuses writes with READONLY; a full one refuses
them with OOM. Celery's consumer treats these as program errors and ends the worker; this one reconnects.
"""

from __future__ import annotations

import random
import time
from typing import Any

import redis
from celery.utils.imports import symbol_by_name
from celery.worker.state import maybe_shutdown
from kombu.exceptions import OperationalError

from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.worker.backoff import Backoff

#: A connection that lasted longer than this counts as a success.
LASTING_SECONDS = 10.0


def make_patient(worker: Any, client: redis.Redis) -> None:
    """Replace the worker's consumer class. Call it before the worker creates its consumer. `client` reaches the broker."""
    worker.app.conf.broker_channel_error_retry = True
    base: Any = symbol_by_name(worker.consumer_cls)

    class PatientConsumer(base):  # type: ignore[misc]
        """Survives the errors of a server with a problem, and waits between attempts, so that it does not fill the log."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            # Errors that kombu and redis-py raise during the start, for example while Celery looks for other workers.
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
    """Whether the server reports that it is a replica; False if it does not answer."""
    try:
        return str(client.info("replication").get("role", "master")) != "master"
    except (redis.ResponseError, *SERVER_ERRORS):
        return False
