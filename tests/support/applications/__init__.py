"""Small applications that workers run in tests: `celery -A tests.support.applications.sequences worker`."""
