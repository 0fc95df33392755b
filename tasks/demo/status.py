"""The partitions' owners and counts that the demo needs, as in `celery -A APP partitions status`."""

from __future__ import annotations

from celery_partitions.admin.status import PartitionStatus
from celery_partitions.demo.processes import Processes
from celery_partitions.runtime.registry import current_installation
from celery_partitions_config.resolution import from_environment


def read_partitions() -> list[PartitionStatus]:
    """All partitions in numeric order, without the ingress."""
    group = current_installation().group
    return [partition for partition in group.status() if partition.queue != group.settings.group]


def wait_for_workers(processes: Processes, workers: int, seconds: float) -> list[PartitionStatus]:
    """Wait until each partition has an owner, and each worker a partition (as far as there are enough). Returns the partitions."""
    shares = min(workers, from_environment().partitions)
    seen: list[PartitionStatus] = []

    def shared_out() -> bool:
        seen[:] = read_partitions()
        owners = {partition.owner for partition in seen}
        return None not in owners and len(owners) == shares

    processes.wait_until(shared_out, f"{shares} workers own all partitions", seconds)
    return seen
