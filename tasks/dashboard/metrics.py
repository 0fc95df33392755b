"""Adds the partitions' metrics to Flower's `/metrics`, which needs no login, as in stock Flower."""

from __future__ import annotations

import logging

import prometheus_client
from flower.views.monitor import Metrics
from tornado.ioloop import IOLoop

from celery_partitions.admin.prometheus import GroupCollector
from celery_partitions.model.errors import SetupError
from celery_partitions.producer.pipelines import ends_with_processes
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.registry import installation_of

logger = logging.getLogger(__name__)

_installed: dict[int, GroupCollector | None] = {}


class MetricsPage(Metrics):  # type: ignore[misc]
    """Replaces Flower's page. The text is made outside the event loop: for 256 partitions it takes a tenth of a second."""

    async def get(self) -> None:
        self.application.purge_offline_worker_metrics()
        installation = installation_of(self.application.capp)
        if installation is not None:
            install_metrics(installation)
        text = await IOLoop.current().run_in_executor(None, prometheus_client.generate_latest)
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.write(text)


def install_metrics(installation: Installation) -> None:
    """Register an installation's group with `prometheus_client` in this process. A second call does nothing."""
    if id(installation) in _installed:
        return
    try:
        collector = GroupCollector(installation.group, ends=ends_with_processes)
    except SetupError as error:  # for example no Redis: Flower's own metrics still work
        _installed[id(installation)] = None
        logger.warning("metrics: the partitions' metrics are missing: %s", error)
        return
    _installed[id(installation)] = collector
    prometheus_client.REGISTRY.register(collector)
