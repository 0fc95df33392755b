"""The processes that read a source (`celery -A APP partitions source NAME`) and send messages to the partition queues in bulk."""
