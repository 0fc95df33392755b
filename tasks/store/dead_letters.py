"""Dead letters, as an operator handles them: list, show, retry, discard."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import cast

import msgspec
import redis

from tasks.model.duplicates import spell_id
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
        field = letter_id.encode("utf-8", "surrogateescape")
        all_units = units(self.partitions)
        with self.client.pipeline(transaction=False) as pipe:
            for unit in all_units:
                pipe.hget(self.names.dead(unit), cast(str, field))
            rows = pipe.execute()
        return next(
            (_read(field, row, unit) for unit, row in zip(all_units, rows, strict=True) if row is not None), None
        )

    def retry(self, letters: Sequence[DeadLetter]) -> int:
        """Put each back at the end of the queue it died in. Returns how many were still dead letters."""
        back = 0
        for letter in letters:
            names, unit, task = self.names, letter.unit, letter.task or ""
            back += script("retry_dead_letter").run(
                self.client,
                [names.dead(unit), names.queue(unit), names.seen(unit, task, "young"), names.seen(unit, task, "old")],
                [letter.id, base64.b64decode(letter.raw), spell_id(letter.message_id or "")],
            )
        return back

    def discard(self, letters: Sequence[DeadLetter]) -> int:
        """Delete them for good. Returns how many were there."""
        return sum(int(self.client.hdel(self.names.dead(letter.unit), letter.id)) for letter in letters)


def raw_text(letter: DeadLetter) -> str:
    """The raw message as text, for people."""
    return base64.b64decode(letter.raw).decode("utf-8", "backslashreplace")


def _read(field: bytes, row: bytes, unit: str) -> DeadLetter:
    try:
        letter = msgspec.json.decode(row, type=DeadLetter)
        base64.b64decode(letter.raw, validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error):
        # Somebody else wrote into the hash: show it, so that it can be discarded.
        raw = base64.b64encode(row).decode()
        name = field.decode("utf-8", "backslashreplace")
        return DeadLetter(name, unit, "unreadable-record", "not written by a worker", "", None, None, None, 0, 0.0, raw)
    return letter
