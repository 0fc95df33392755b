"""`celery_partitions.app`: a ready Celery app, made from the settings."""

from __future__ import annotations

from functools import cache

from celery import Celery

from celery_partitions.install import install
from celery_partitions_config.celeryconfig import celery_options
from celery_partitions_config.settings import resolve


@cache
def make_app() -> Celery:
    """This process's app, made from the environment on the first call. Raises `SettingsError` for an invalid variable."""
    settings = resolve().check("producers")
    app = Celery("celery_partitions")
    app.config_from_object(celery_options(settings))
    return install(app, by_default=True)
