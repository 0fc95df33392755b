"""The topology of a group: its number of partitions, and so the partition of each key."""

from __future__ import annotations

from dataclasses import dataclass

from celery_partitions.model.keys import partition_of_normalized


@dataclass(frozen=True, slots=True)
class Topology:
    """How many partitions a group has. `epoch` increases when the number changes."""

    epoch: int
    partitions: int

    def partition_of(self, key: str) -> int:
        """The partition of a normalized key. Raises `KeyExtractionError` for text that can't be encoded."""
        return partition_of_normalized(key, self.partitions)
