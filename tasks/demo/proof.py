"""An application whose computation waits: what partitions are for. `celery -A celery_partitions.demo.proof worker` runs it.

The wait stands for any call to elsewhere. The state folds the order in which its key's messages were applied into one
number, so that a message lost, doubled or out of order shows.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass

from celery_partitions import app, key_extractor, state_computation

__all__ = ["Item", "Trail", "app", "extract_key", "wait_and_note"]

#: As long as a quick query to a database in the same building.
WAIT_SECONDS = 0.002


@dataclass
class Item:
    key: str
    number: int


class Trail:
    """What a key has seen: how many items, and a checksum of their numbers in order."""

    count = 0
    checksum = 0

    def note(self, item: Item) -> None:
        self.count += 1
        self.checksum = zlib.crc32(str(item.number).encode(), self.checksum)


@key_extractor
def extract_key(item: Item) -> str:
    return item.key


@state_computation(name="wait and note", state=Trail, key=extract_key)
def wait_and_note(item: Item, state: Trail) -> None:
    time.sleep(WAIT_SECONDS)
    state.note(item)
