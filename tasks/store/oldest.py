"""How long the oldest message of each queue has been on its way: asked of all queues in one command."""

from __future__ import annotations

import math
from typing import Any

import redis

from celery_partitions.model.messages import MAX_SECONDS
from celery_partitions.store.scripts import script


def request_oldest(pipe: redis.client.Pipeline, queues: list[str]) -> None:
    """Put the question into a pipeline. The script goes whole: a pipeline can't send it after a server did not know it."""
    pipe.eval(script("oldest").text.decode(), len(queues), *queues)


def oldest_sent(answer: Any, queues: int) -> list[float | None]:
    """For each queue the seconds since the epoch, by its sender's clock; None where there is no message, or it does not say."""
    if not isinstance(answer, list):  # a user of the server who may not run scripts
        return [None] * queues
    return [_seconds(text) for text in answer]


def _seconds(text: bytes) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and 0 <= found <= MAX_SECONDS else None
