"""Celery's configuration for `celery_partitions.app`, made from our settings. A project with its own Celery app keeps its own."""

from __future__ import annotations

import ssl
from typing import Any

from celery_partitions_config.settings import Settings


def broker_options(settings: Settings) -> dict[str, Any]:
    """The options that concern the server: broker URL, TLS, and one Redis list per queue (no priority lists)."""
    transport: dict[str, Any] = {"priority_steps": [0]}
    if settings.redis_url.startswith("sentinel://"):
        transport["master_name"] = settings.redis_sentinel_master
    options: dict[str, Any] = {
        "broker_url": broker_url(settings.redis_url),
        "broker_transport_options": transport,
        "result_backend": broker_url(settings.redis_url),
        "result_backend_transport_options": dict(transport),
    }
    if settings.redis_url.startswith("rediss://"):
        verify = settings.redis_tls_verify
        tls: dict[str, Any] = {
            "ssl_cert_reqs": ssl.CERT_REQUIRED if verify else ssl.CERT_NONE,
            "ssl_check_hostname": verify,
        }
        if settings.redis_tls_ca_file is not None:
            tls["ssl_ca_certs"] = settings.redis_tls_ca_file
        options["broker_use_ssl"] = tls
        options["redis_backend_use_ssl"] = dict(tls)
    return options


def broker_url(redis_url: str) -> str:
    """The URL in Celery's form. Celery writes a socket as redis+socket://…?virtual_host=3, redis-py as unix://…?db=3; both are taken."""
    if redis_url.startswith("unix://"):
        path, _, query = redis_url.removeprefix("unix://").partition("?")
        words = [
            word.replace("db=", "virtual_host=", 1) if word.startswith("db=") else word for word in query.split("&")
        ]
        return f"redis+socket://{path}" + (f"?{'&'.join(words)}" if query else "")
    return redis_url


def celery_options(settings: Settings) -> dict[str, Any]:
    """The whole Celery configuration of `celery_partitions.app`."""
    return {
        **broker_options(settings),
        "broker_connection_retry_on_startup": True,
        # A partition needs one computation at a time in a process. Scale with more processes.
        "worker_pool": "solo",
        "worker_concurrency": 1,
        "worker_prefetch_multiplier": 1,
        # Flower then sees tasks without -E on each command line. Our own events are limited (PARTITIONS_EVENTS_PER_SECOND).
        "worker_send_task_events": True,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "worker_hijack_root_logger": True,
        "task_track_started": False,
        "enable_utc": True,
    }
