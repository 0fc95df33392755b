"""Reads when the oldest message of each queue was sent, for all queues in one command."""

from __future__ import annotations

import math
from typing import Any

import redis

from celery_partitions.model.messages import MAX_SECONDS
from celery_partitions.store.scripts import script
from celery_partitions.store.servers_pipeline import EACH, ServersPipeline


def request_oldest(pipe: redis.client.Pipeline, queues: list[str]) -> None:
    """Add the request to a pipeline. It sends the whole script, because a pipeline can't retry if the server does not know the digest."""
    pipe.execute_command("EVAL", script("oldest").text, len(queues), *queues, **({EACH: True} if isinstance(pipe, ServersPipeline) else {}))


def oldest_sent(answer: Any, queues: int) -> list[float | None]:
    """For each queue, when its oldest message was sent: seconds since the epoch, by the sender's clock. None if the queue is empty or the
    message does not say."""
    if not isinstance(answer, list):  # this Redis user may not run scripts
        return [None] * queues
    return [_seconds(text) for text in answer]


def _seconds(text: bytes) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and 0 <= found <= MAX_SECONDS else None
