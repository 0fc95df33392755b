"""What runs inside a Celery worker that was asked for partitions: two threads beside Celery's own main loop.

The lease keeper says that the worker lives and learns its share; the loop takes batches, steps and commits.
"""
