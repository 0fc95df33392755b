"""The partitions' numbers among Flower's on `/metrics`, which is open to whoever reaches Flower, as Flower's own are."""

from __future__ import annotations

import logging

import prometheus_client
from flower.views.monitor import Metrics
from tornado.ioloop import IOLoop

from celery_partitions.admin.prometheus import GroupCollector
from celery_partitions.model.errors import SetupError
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.registry import installation_of

logger = logging.getLogger(__name__)

_installed: dict[int, GroupCollector | None] = {}


class MetricsPage(Metrics):  # type: ignore[misc]
    """In the place of Flower's own. Written outside the event loop: the text of 256 partitions takes a tenth of a second."""

    async def get(self) -> None:
        self.application.purge_offline_worker_metrics()
        installation = installation_of(self.application.capp)
        if installation is not None:
            install_metrics(installation)
        text = await IOLoop.current().run_in_executor(None, prometheus_client.generate_latest)
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.write(text)


def install_metrics(installation: Installation) -> None:
    """Put an installation's group into what `prometheus_client` tells in this process. A second call changes nothing."""
    if id(installation) in _installed:
        return
    try:
        collector = GroupCollector(installation.group)
    except SetupError as error:  # no Redis, say: Flower's own numbers are told all the same
        _installed[id(installation)] = None
        logger.warning("metrics: none of partitions: %s", error)
        return
    _installed[id(installation)] = collector
    prometheus_client.REGISTRY.register(collector)
