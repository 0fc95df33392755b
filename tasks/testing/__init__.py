"""Computations and pipelines in your own tests: in memory, with no Redis, no worker process, and a virtual clock.

    with harness(pipeline) as h:
        h.send({"symbol": "AAPL", "price": 1.0})
        assert h.state("update stock", "AAPL").price == 1.0

`apply` runs messages through one computation, `harness` through a whole pipeline. For pytest there are the fixtures
`partition_harness`, `partition_server` and `partition_workers` (`celery_partitions.testing.fixtures`). The embedded server (`server`), and what ends
the processes that were started (`lifeline`), serve `celery_partitions.demo` and `celery_partitions.wallaroo` too.
"""

from celery_partitions.testing.in_memory import Harness, harness
from celery_partitions.testing.step_harness import Applied, apply
from celery_partitions.testing.view import View
from celery_partitions.testing.virtual import CRASH_POINTS, CrashPoint, HarnessError

__all__ = ["CRASH_POINTS", "Applied", "CrashPoint", "Harness", "HarnessError", "View", "apply", "harness"]
