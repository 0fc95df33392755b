"""What a partition worker does as a Celery worker: command line, signals, remote control, events, leases."""
