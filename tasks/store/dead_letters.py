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
            raw = base64.b64decode(letter.raw)
            back += script("retry_dead_letter").run(
                self.client,
                [self.names.dead(letter.unit), self.names.dead_raw(letter.unit)],
                [letter.id, self.names.queue(letter.unit), raw],
            )
        return back

    def discard(self, letters: Sequence[DeadLetter]) -> int:
        """Delete them for good. Returns how many were there."""
        for letter in letters:
            if letter.apart:
                self.client.hdel(self.names.dead_raw(letter.unit), letter.id)
        return sum(int(self.client.hdel(self.names.dead(letter.unit), letter.id)) for letter in letters)

    def raw(self, letter: DeadLetter) -> bytes:
        """The message itself, which may be hundreds of megabytes where it is kept apart."""
        if not letter.apart:
            return base64.b64decode(letter.raw)
        return cast(bytes, self.client.hget(self.names.dead_raw(letter.unit), letter.id) or b"")


def raw_text(letter: DeadLetter) -> str:
    """The raw message as text, for people; of one that is kept apart only that it is."""
    if letter.apart:
        return f"(kept apart, because it is long: field {letter.id} of the hash dead:raw of its unit)"
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
