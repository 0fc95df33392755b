"""A project's app with a task that reports how its worker is set up. With INSTALLED=1 the project calls `install`."""

from __future__ import annotations

import gc
import logging
import os
import threading
from typing import Any

from celery import Celery
from celery.worker.control import Panel

from celery_partitions import install

app = Celery("shop", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.worker_send_task_events = False
if os.environ["INSTALLED"] == "1":
    install(app)


def place(value: Any) -> str:
    """A function or class by its module and name."""
    value = getattr(value, "__func__", value)
    return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"


@app.task(name="describe worker", bind=True)
def describe(self: Any) -> dict[str, Any]:
    """The properties that a partition worker changes in its process."""
    conf = app.conf.table()
    conf.pop("task_routes", None)
    return {
        "configuration": {name: repr(value) for name, value in conf.items()},
        "remote control": {name: place(command) for name, command in Panel.data.items()},
        "collector": [gc.isenabled(), gc.get_threshold(), bool(gc.get_freeze_count())],
        "amqp": [place(type(app.amqp)), place(app.amqp.send_task_message), sorted(app.amqp.queues)],
        "formatters": [place(type(one.formatter)) for one in logging.getLogger().handlers],
        "node": self.request.hostname.partition("@")[0],
        "task": [place(type(self)), str(self.Request), str(self.Strategy)],
        "threads": [one.name for one in threading.enumerate() if "artition" in one.name],
    }
