import os

from celery import Celery
from celery.signals import setup_logging

import celery_partitions

# set the default Django settings module for the 'celery' program.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")

app = Celery("shop")

# Using a string here means the worker doesn't have to serialize the configuration object to child processes.
app.config_from_object("django.conf:settings", namespace="CELERY")

celery_partitions.install(app)


@setup_logging.connect
def config_loggers(*args, **kwargs):
    from logging.config import dictConfig

    from django.conf import settings

    dictConfig(settings.LOGGING)


# Load task modules from all registered Django app configs.
app.autodiscover_tasks()
