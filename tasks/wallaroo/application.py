"""The application of `PARTITIONS_WALLAROO_ARGUMENTS` as a Celery app: `celery -A celery_partitions.wallaroo.application worker`, `… partitions status`.

The runner's processes use it. You can also use it in a Procfile.
"""

from __future__ import annotations

import warnings

from celery import Celery

from celery_partitions.install import install
from celery_partitions.model.errors import OneKeyWarning
from celery_partitions.wallaroo.loader import load
from celery_partitions_config.celeryconfig import celery_options
from celery_partitions_config.resolution import from_environment

settings = from_environment()
app = Celery("wallaroo")
app.config_from_object(celery_options(settings))
# Do not turn the application's own prints into log lines.
app.conf.worker_redirect_stdouts = False
install(app, settings, by_default=True)
with warnings.catch_warnings():
    # The runner has already shown this warning.
    warnings.simplefilter("ignore", OneKeyWarning)
    application = load(settings.wallaroo_arguments)

__all__ = ["app", "application"]
