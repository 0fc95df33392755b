"""With `PARTITIONS_METRICS_PORT`: a worker serves Prometheus metrics of the partitions that it owns and of its process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from celery_partitions.admin.prometheus import GroupCollector
from celery_partitions.runtime.installation import Installation

logger = logging.getLogger("celery.worker.partitions")


class MetricsServer:
    """Answers in its own threads until it is closed or the process ends."""

    def __init__(self, installation: Installation, held: Callable[[], Collection[str]]) -> None:
        """Raises `OSError` if it cannot listen at the configured address."""
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
    """Start the server. None if PARTITIONS_METRICS_PORT is not set or the port is unavailable; then a warning is logged."""
    settings = installation.settings
    if settings.metrics_port is None:
        return None
    try:
        server = MetricsServer(installation, held)
    except (OSError, OverflowError) as error:
        logger.warning(
            "metrics: not served: PARTITIONS_METRICS_HOST=%s PARTITIONS_METRICS_PORT=%d: %s. Set PARTITIONS_METRICS_PORT=0 to let the system pick a port for each worker",
            settings.metrics_host,
            settings.metrics_port,
            error,
        )
        return None
    logger.info("metrics: served at http://%s:%d/metrics", settings.metrics_host, server.port)
    return server
