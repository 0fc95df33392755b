"""Test your computations and pipelines in memory, with a virtual clock and without Redis or a worker process.

    with harness(pipeline) as h:
        h.send({"symbol": "AAPL", "price": 1.0})
        assert h.state("update stock", "AAPL").price == 1.0

`apply` runs messages through one computation, `harness` through a whole pipeline. The pytest fixtures are `partition_harness`,
`partition_server` and `partition_workers` (`celery_partitions.testing.fixtures`). `celery_partitions.demo` and
`celery_partitions.wallaroo` also use the embedded server (`server`) and the module that ends child processes (`lifeline`).
"""

from celery_partitions.testing.capture import Sent
from celery_partitions.testing.in_memory import Harness, harness
from celery_partitions.testing.step_harness import Applied, apply
from celery_partitions.testing.view import View
from celery_partitions.testing.virtual import CRASH_POINTS, CrashPoint, HarnessError

__all__ = ["CRASH_POINTS", "Applied", "CrashPoint", "Harness", "HarnessError", "Sent", "View", "apply", "harness"]
