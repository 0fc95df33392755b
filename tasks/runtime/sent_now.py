"""Logs, once for each reason, that a computation sends something which can't be part of its commit."""

from __future__ import annotations

import logging

logger = logging.getLogger("celery.worker.partitions")

ANOTHER_APP = "it belongs to another Celery app"
ANOTHER_BROKER = "it goes to another broker"

_noted: set[tuple[str, str]] = set()


def note_sent_now(task: str, why: str) -> None:
    """Called for each such send, also in threads."""
    if (task, why) not in _noted:
        _noted.add((task, why))
        text = (
            "partitions: a computation sends %s at once, at least once, and not with its commit: %s. If that is meant, write "
            "`with context.send_now():` around it"
        )
        logger.warning(text, task, why)
