"""Closing a Celery app: Celery itself leaves the connections of its result backend to the garbage collector."""

from __future__ import annotations

from celery import Celery
from celery.backends.redis import RedisBackend


def close_app(app: Celery) -> None:
    """Close the app's pool, and what its result backend opened. A socket that is garbage-collected while open fails a later test."""
    backend = app._backend
    if isinstance(backend, RedisBackend):
        # A result may outlive its server.
        backend.result_consumer.stop()
        backend.result_consumer.subscribed_to.clear()
        backend.client.connection_pool.disconnect()
    app.close()
