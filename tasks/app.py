"""The composition root: settings → Celery app. `celery -A tasks worker` runs it; so does a module that imports `app`."""

from __future__ import annotations

from functools import cache

from celery import Celery

from config.celeryconfig import celery_options
from config.settings import Settings
from tasks.install import install


@cache
def make_app() -> Celery:
    """The app of this process, made from the environment. Raises `SettingsError` for a variable that can't be used."""
    settings = Settings.from_environment()
    app = Celery("tasks")
    app.config_from_object(celery_options(settings))
    return install(app, settings, by_default=True)
