"""The composition root: settings → Celery app. `celery -A celery_partitions worker` runs it; so does a module that imports `app`."""

from __future__ import annotations

from functools import cache

from celery import Celery

from celery_partitions.install import install
from celery_partitions_config.celeryconfig import celery_options
from celery_partitions_config.settings import resolve


@cache
def make_app() -> Celery:
    """The app of this process, made from the environment. Raises `SettingsError` for a variable that can't be used."""
    settings = resolve().check("producers")
    app = Celery("celery_partitions")
    app.config_from_object(celery_options(settings))
    return install(app, by_default=True)
