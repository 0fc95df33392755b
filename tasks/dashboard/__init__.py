"""The partitions in Flower: additional pages, a JSON API and actions. Flower is not forked: its settings file calls `add_to_flower`.

This package runs in Flower's process and depends on Flower and Tornado. It reads and changes the group through
`celery_partitions.admin`. Flower's authentication, `url_prefix` and `read_only` apply to every URL of ours. Redis is read and written in
Flower's executor, never in its event loop.
"""

from __future__ import annotations

from flower.urls import handlers as flower_handlers
from flower.urls import settings as flower_settings
from flower.views.monitor import Metrics

from celery_partitions.dashboard.loader import PagesLoader
from celery_partitions.dashboard.metrics import MetricsPage
from celery_partitions.dashboard.protection import Compressed, SafeHeaders, guarded
from celery_partitions.dashboard.urls import HANDLERS

__all__ = ["add_to_flower"]


def add_to_flower() -> None:
    """Add our pages to Flower. `config/flowerconfig.py` calls it before Flower creates its application. A second call does nothing."""
    if "template_loader" in flower_settings:
        return
    # Flower's last handler matches every path, so ours go before it.
    flower_handlers[-1:-1] = HANDLERS
    at = next(number for number, handler in enumerate(flower_handlers) if isinstance(handler, tuple) and handler[1] is Metrics)
    flower_handlers[at] = (flower_handlers[at][0], MetricsPage)
    flower_handlers[:] = [guarded(handler) for handler in flower_handlers]
    flower_settings["transforms"] = [SafeHeaders, Compressed]
    flower_settings["template_loader"] = PagesLoader(flower_settings["template_path"])
