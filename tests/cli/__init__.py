"""`celery -A APP partitions …`, as an operator runs it."""
