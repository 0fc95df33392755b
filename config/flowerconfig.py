"""Flower's settings: `celery -A APP flower --conf=config/flowerconfig.py`."""

#: Flower keeps each task it saw (about 4 KB); partition workers sample their events, so this is minutes of work.
max_tasks = 10_000
#: Unless told otherwise only this machine sees it: Flower has no authentication by default.
address = "127.0.0.1"
