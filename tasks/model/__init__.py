"""Computations, messages and states, and the pure step that runs a batch: no Redis, no Celery, no clock, no random numbers."""
