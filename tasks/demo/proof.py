"""An application whose computation waits, to show what partitions are for. Run it: `celery -A celery_partitions.demo.proof worker`.

The wait stands for any external call. The state is a checksum of its key's messages in order, which reveals lost, duplicated or
reordered messages.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass

from celery_partitions import app, key_extractor, state_computation

__all__ = ["Item", "Trail", "app", "extract_key", "wait_and_note"]

#: About the time of a fast database query.
WAIT_SECONDS = 0.002


@dataclass
class Item:
    key: str
    number: int


class Trail:
    """A key's state: how many items it has seen, and a checksum of their numbers in order."""

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
