"""The topology of a group: its number of partitions, and so the partition of each key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd

from celery_partitions.model.keys import partition_of_normalized


@dataclass(frozen=True, slots=True)
class Topology:
    """How many partitions a group has. `epoch` increases when the number changes."""

    epoch: int
    partitions: int
    #: The number before the last resize, until that resize is finished. None: no resize is in progress.
    former: int | None = None
    #: The highest number that the group ever had: a partition above `partitions` forwards what old producers still send there.
    highest: int = 0
    #: Keys are on their way to other partitions.
    is_moving: bool = False
    #: The resize undoes another one that was not finished.
    is_back: bool = False

    @property
    def served(self) -> int:
        """How many partitions have a worker."""
        return max(self.partitions, self.former or 0, self.highest)

    @property
    def before(self) -> Topology:
        """During a resize: the topology of a partition that does not follow the new one yet."""
        assert self.former is not None
        return Topology(self.epoch - 1, self.former, None, self.served)

    @property
    def undone(self) -> Topology:
        """During a resize that undoes another: the topology of that other one."""
        assert self.former is not None
        return Topology(self.epoch - 1, self.former, self.partitions, self.served)

    @property
    def of_senders(self) -> Topology:
        """The topology by which messages are sent. While keys move, that is the former one: a message for a key's new partition would wait there
        until the former one had its turn to move keys. But not if a resize is undone, because nobody may go back to a former number."""
        return self.before if self.is_moving else self

    def partition_of(self, key: str) -> int:
        """The partition of a normalized key. Raises `KeyExtractionError` for text that can't be encoded."""
        return partition_of_normalized(key, self.partitions)

    def sources(self, partition: int | None) -> tuple[int, ...]:
        """During a resize: the other partitions from which a partition (None: the ingress) gets keys, and messages that were sent for the former
        number. Empty if there is none."""
        if self.former is None or partition is None or partition >= self.partitions:
            return ()
        return _sources(self.former, self.partitions, partition)


@lru_cache(maxsize=10_000)
def _sources(former: int, partitions: int, partition: int) -> tuple[int, ...]:
    # Keys with the same remainder by both numbers' greatest common divisor are together before and after.
    step = gcd(former, partitions)
    return tuple(one for one in range(partition % step, former, step) if one != partition)
