"""The partitions' numbers among Flower's on `/metrics`, which is open to whoever reaches Flower, as all of Flower's `/metrics` is."""

from __future__ import annotations

import prometheus_client
from flower.urls import handlers as flower_handlers
from flower.views.monitor import Metrics
from tornado.ioloop import IOLoop

from tasks.operating.scraping import GroupCollector
from tasks.producer.installation import Installation

_installed: dict[str, GroupCollector] = {}


class MetricsPage(Metrics):  # type: ignore[misc]
    """Flower's own page, written outside the event loop: text for 256 partitions takes a tenth of a second."""

    async def get(self) -> None:
        self.application.purge_offline_worker_metrics()
        text = await IOLoop.current().run_in_executor(None, prometheus_client.generate_latest)
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.write(text)


def install_metrics(installation: Installation) -> GroupCollector:
    """Called once a group, before Flower makes its application. A second call changes nothing."""
    group = installation.group
    found = _installed.get(group.names.root)
    if found is None:
        found = _installed[group.names.root] = GroupCollector(group)
        prometheus_client.REGISTRY.register(found)
        for number, handler in enumerate(flower_handlers):
            if isinstance(handler, tuple) and handler[1] is Metrics:
                flower_handlers[number] = (handler[0], MetricsPage)
    return found
