"""Settings and configuration. `settings` and `celeryconfig` only hold values and import nothing from `celery_partitions`.

`flowerconfig` and `pytestconfig` are entry points that Flower and pytest load; only they import from `celery_partitions`.
"""

if __name__ != "celery_partitions_config":
    raise ImportError("this folder is the package `celery_partitions_config`. Import it by that name, or its modules would be loaded twice")
