"""Celery results of computations, and what follows a message: links, chains and chords."""
