"""The ground. `settings` and `celeryconfig` are values, and import nothing from `celery_partitions`.

`flowerconfig` and `pytestconfig` are loaded by Flower and by pytest, not by us: the two entry points that reach up into it.
"""

if __name__ != "celery_partitions_config":
    raise ImportError("this folder is the package `celery_partitions_config`: import it by that name, so that nothing is loaded twice")
