"""Dead letters, as an operator handles them: list, show, retry, discard."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import cast

import msgspec
import redis

from tasks.store.commits import DeadLetter
from tasks.store.names import Names, units
from tasks.store.scripts import script


class DeadLetters:
    """The dead letters of a group."""

    def __init__(self, client: redis.Redis, names: Names, partitions: int) -> None:
        self.client, self.names, self.partitions = client, names, partitions

    def all(self) -> Iterator[DeadLetter]:
        """Every dead letter, scanned, in no order."""
        for unit in units(self.partitions):
            for field, row in self.client.hscan_iter(self.names.dead(unit), count=100):
                yield _read(field, row, unit)

    def get(self, letter_id: str) -> DeadLetter | None:
        """One dead letter by its id; None when there is none (any more)."""
        unit = letter_id.partition("-")[0]
        row = cast(bytes | None, self.client.hget(self.names.dead(unit), letter_id))
        return None if row is None else _read(letter_id.encode(), row, unit)

    def retry(self, letters: Sequence[DeadLetter]) -> int:
        """Put each back at the end of the queue it died in. Returns how many were still dead letters."""
        back = 0
        for letter in letters:
            raw = base64.b64decode(letter.raw)
            back += script("retry_dead_letter").run(
                self.client, [self.names.dead(letter.unit)], [letter.id, self.names.queue(letter.unit), raw]
            )
        return back

    def discard(self, letters: Sequence[DeadLetter]) -> int:
        """Delete them for good. Returns how many were there."""
        return sum(int(self.client.hdel(self.names.dead(letter.unit), letter.id)) for letter in letters)


def raw_text(letter: DeadLetter) -> str:
    """The raw message as text, for people."""
    try:
        return base64.b64decode(letter.raw).decode("utf-8", "backslashreplace")
    except binascii.Error:
        return letter.raw


def _read(field: bytes, row: bytes, unit: str) -> DeadLetter:
    try:
        return msgspec.json.decode(row, type=DeadLetter)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Somebody else wrote into the hash: show it, so that it can be discarded.
        raw = base64.b64encode(row).decode()
        name = field.decode("utf-8", "backslashreplace")
        return DeadLetter(name, unit, "unreadable-record", "not written by a worker", "", None, None, None, 0, 0.0, raw)
