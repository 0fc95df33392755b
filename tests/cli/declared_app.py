"""What `tests.cli.declared` declares, as an app that a command line can name."""

from __future__ import annotations

from celery_partitions import app
from tests.cli.declared import note, update

__all__ = ["app", "note", "update"]
