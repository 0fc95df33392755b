"""Celery's "First Steps with Celery": the user's own `tasks.py`. It does not use partitions."""

from celery import Celery

app = Celery("tasks", broker="redis://localhost:6379/0", backend="redis://localhost:6379/0")


@app.task
def add(x, y):
    return x + y
