"""The processes that deliver to a sink outside Redis: `celery -A APP partitions sink NAME`, a partition worker of the sink's own group."""
