"""The partitions in Flower: pages beside its own, the same as JSON, and actions. No fork: Flower's settings file calls `add_to_flower`.

Everything here runs in Flower's process and knows Flower and Tornado; what it shows and does it asks of `celery_partitions.admin`.
Flower's authentication, `url_prefix` and `read_only` hold for every URL of ours. Redis is read and written in Flower's executor, never in
its event loop.
"""

from __future__ import annotations

from flower.urls import handlers as flower_handlers
from flower.urls import settings as flower_settings
from flower.views.monitor import Metrics

from celery_partitions.dashboard.loader import PagesLoader
from celery_partitions.dashboard.metrics import MetricsPage
from celery_partitions.dashboard.protection import SafeHeaders, guarded
from celery_partitions.dashboard.urls import HANDLERS

__all__ = ["add_to_flower"]


def add_to_flower() -> None:
    """Called by `config/flowerconfig.py`, before Flower makes its application. A second call changes nothing."""
    if "template_loader" in flower_settings:
        return
    # The last of Flower's handlers takes every path.
    flower_handlers[-1:-1] = HANDLERS
    at = next(number for number, handler in enumerate(flower_handlers) if isinstance(handler, tuple) and handler[1] is Metrics)
    flower_handlers[at] = (flower_handlers[at][0], MetricsPage)
    flower_handlers[:] = [guarded(handler) for handler in flower_handlers]
    flower_settings["transforms"] = [SafeHeaders]
    flower_settings["template_loader"] = PagesLoader(flower_settings["template_path"])
