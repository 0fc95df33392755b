"""Remote control: `inspect active_queues` lists the partitions that a worker holds, beside the queues kombu consumes.

Flower's broker page asks for it to know which queues to measure.
"""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

from celery_partitions.worker.bootstep import PartitionStep


@inspect_command()  # type: ignore[untyped-decorator]
def active_queues(state: Any) -> list[dict[str, Any]]:
    """List the task queues a worker is currently consuming from."""
    consumer = state.consumer
    queues = list(consumer.task_consumer.queues) if consumer.task_consumer else []
    for step in consumer.controller.steps:
        if isinstance(step, PartitionStep) and (installation := step.installation) is not None:
            units = [installation.group.names.unit_of(name) for name in step.owned_queues()]
            queues += [installation.queue(unit) for unit in units if unit is not None]
    return [dict(queue.as_dict(recurse=True)) for queue in queues]
