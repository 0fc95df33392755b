"""Unit tests of `celery_partitions.model`: values in, values out; no socket is opened here."""
