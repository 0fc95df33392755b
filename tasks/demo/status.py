"""Who owns which partition and how far it is: what the demo reads of `celery -A APP partitions status`."""

from __future__ import annotations

from celery_partitions.operating.status import UnitStatus
from celery_partitions.producer.declarations import current_installation


def read_partitions() -> list[UnitStatus]:
    """All partitions in the order of their numbers; the ingress is left out."""
    group = current_installation().group
    return [unit for unit in group.status() if unit.queue != group.settings.group]


def owners(partitions: list[UnitStatus]) -> set[str]:
    """The workers that own at least one partition; empty while a partition has no owner."""
    names = [partition.owner for partition in partitions if partition.owner is not None]
    return set(names) if len(names) == len(partitions) else set()
