"""With `PARTITIONS_METRICS_PORT`: a worker answers Prometheus, of the partitions that it holds and of its own process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from celery_partitions.admin.prometheus import GroupCollector
from celery_partitions.runtime.installation import Installation

logger = logging.getLogger("celery.worker.partitions")


class MetricsServer:
    """Answers in threads of its own until it is closed, or the process ends."""

    def __init__(self, installation: Installation, held: Callable[[], Collection[str]]) -> None:
        """Raises `OSError` when it can't listen there."""
        settings = installation.settings
        registry = CollectorRegistry()
        registry.register(GroupCollector(installation.group, only=held))
        ProcessCollector(registry=registry)
        self._server, self._thread = start_http_server(settings.metrics_port or 0, settings.metrics_host, registry)
        self.port = self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(installation: Installation, held: Callable[[], Collection[str]]) -> MetricsServer | None:
    """None when PARTITIONS_METRICS_PORT is not set, or its port can't be had, which is said: the worker works without."""
    settings = installation.settings
    if settings.metrics_port is None:
        return None
    try:
        server = MetricsServer(installation, held)
    except (OSError, OverflowError) as error:
        logger.warning(
            "metrics: not served: PARTITIONS_METRICS_HOST=%s PARTITIONS_METRICS_PORT=%d: %s; PARTITIONS_METRICS_PORT=0 lets the system pick a port for each worker",
            settings.metrics_host,
            settings.metrics_port,
            error,
        )
        return None
    logger.info("metrics: served at http://%s:%d/metrics", settings.metrics_host, server.port)
    return server
