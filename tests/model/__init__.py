"""Unit tests of `celery_partitions.model`: values in, values out. These tests open no socket."""
