"""An app with a beat schedule that its partition workers run (`PARTITIONS_BEAT=1`). Nobody reads the tasks' queues."""

from __future__ import annotations

from datetime import timedelta

from celery.schedules import crontab

from celery_partitions import app

__all__ = ["EVERY_MS", "MINUTES", "TICKS", "app"]

#: The queues of the tasks: each minute, and each `EVERY_MS`.
MINUTES, TICKS = "minutes", "ticks"
EVERY_MS = 200

app.conf.beat_schedule = {
    "each minute": {"task": "minute", "schedule": crontab(), "options": {"queue": MINUTES}},
    "often": {"task": "tick", "schedule": timedelta(milliseconds=EVERY_MS), "options": {"queue": TICKS}},
}
