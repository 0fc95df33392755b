"""The processes that read a source: `celery -A APP partitions source NAME`. What they read goes to the partition queues in bulk."""
