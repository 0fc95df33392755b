"""The commands `celery -A APP partitions …`."""
