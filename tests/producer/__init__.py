"""From a user's message to a partition's queue, on a real server and through Celery's own producer."""
