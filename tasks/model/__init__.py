"""What users write, and the pure step: values in, values out; no Redis, no Celery, no clock, no random."""
