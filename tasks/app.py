"""`celery_partitions.app`: a ready Celery app, made from the settings."""

from __future__ import annotations

import sys
from functools import cache

from celery import Celery

from celery_partitions.install import install
from celery_partitions_config.celeryconfig import celery_options
from celery_partitions_config.resolution import resolve
from celery_partitions_config.settings import SettingsError


@cache
def make_app() -> Celery:
    """This process's app, made from the environment on the first call. Raises `SettingsError` for an invalid variable; a command ends
    with one line instead."""
    try:
        settings = resolve().check("producers")
    except SettingsError as error:
        if "click" in sys.modules and sys.modules["click"].get_current_context(silent=True) is not None:
            # Celery's commands print a traceback of themselves for any exception at import. This text says all.
            raise SystemExit(f"Error: {error}") from error
        raise
    app = Celery("celery_partitions")
    app.config_from_object(celery_options(settings))
    return install(app, by_default=True)
