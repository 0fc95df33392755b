"""The processes that deliver to a sink outside Redis (`celery -A APP partitions sink NAME`): each serves the sink's own group."""
