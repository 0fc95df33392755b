"""What a Celery worker runs to serve partitions: two threads next to Celery's own main loop.

The lease keeper renews the worker's leases and learns its share of the partitions. The loop takes batches, steps and commits.
"""
