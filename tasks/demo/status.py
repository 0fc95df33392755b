"""The partitions' owners and counts that the demo needs, as in `celery -A APP partitions status`."""

from __future__ import annotations

from celery_partitions.admin.status import PartitionStatus
from celery_partitions.runtime.registry import current_installation


def read_partitions() -> list[PartitionStatus]:
    """All partitions in numeric order, without the ingress."""
    group = current_installation().group
    return [partition for partition in group.status() if partition.queue != group.settings.group]


def owners(partitions: list[PartitionStatus]) -> set[str]:
    """The workers that own at least one partition. Empty while any partition has no owner."""
    names = [partition.owner for partition in partitions if partition.owner is not None]
    return set(names) if len(names) == len(partitions) else set()
