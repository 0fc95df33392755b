"""An app with the declarations of `tests.cli.declared`, for `-A`."""

from __future__ import annotations

from celery_partitions import app
from tests.cli.declared import note, update

__all__ = ["app", "note", "update"]
