"""Pipelines as declared: stages, windows and frames as values. No Redis, no Celery, no clock."""
