"""In which form a computation's message is published: the one that workers read, whatever the app and the call say."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from celery_partitions.model.messages import TAKEN_COMPRESSIONS

#: The one of the compressions that workers open which kombu knows by the same name.
USUAL_COMPRESSION = "gzip"


def publish_as_read(options: MutableMapping[str, Any], default_compression: str | None) -> None:
    """Change the options of one send so that its message is found and opened.

    Its priority is 0: a queue's order is the order, and kombu puts other priorities into lists of their own, of which workers
    know those of its default steps only. It is JSON. A compression that no worker opens becomes gzip and not none, since
    Celery takes none for "as configured" (`task_compression`, given here as `default_compression`).
    """
    options["priority"] = 0
    options["serializer"] = "json"
    compression = options.get("compression") or default_compression
    if compression and compression not in TAKEN_COMPRESSIONS:
        options["compression"] = USUAL_COMPRESSION
