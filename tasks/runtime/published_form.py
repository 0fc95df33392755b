"""Publishes a computation's message in the form that workers can read, for any configuration of the app and any options of the call."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from celery_partitions.model.messages import TAKEN_COMPRESSIONS

#: The compression that both workers and kombu know by this name.
USUAL_COMPRESSION = "gzip"


def publish_as_read(options: MutableMapping[str, Any], default_compression: str | None) -> None:
    """Change the options of one send so that workers find its message and can decode it.

    The priority becomes 0, because the order of the queue counts, and kombu puts other priorities into lists of which workers know only the
    default ones. The serializer becomes JSON. A compression that workers can't open becomes gzip. It can't become None, because for Celery
    that means "as configured" (`task_compression`, here `default_compression`).
    """
    options["priority"] = 0
    options["serializer"] = "json"
    compression = options.get("compression") or default_compression
    if compression and compression not in TAKEN_COMPRESSIONS:
        options["compression"] = USUAL_COMPRESSION
