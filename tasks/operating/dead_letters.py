"""Dead letters, as an operator handles them: list, group, show, retry, discard."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, NamedTuple, cast

import msgspec
import redis

from celery_partitions.model.duplicates import spell_id
from celery_partitions.operating.audit import Audit
from celery_partitions.operating.parked_keys import ParkedKeys
from celery_partitions.store.letters import DeadLetter
from celery_partitions.store.names import Names, units
from celery_partitions.store.scripts import script

#: Frames of the language, of installed packages and of the step are not where a user's failure is.
_FRAME = re.compile(r'^  File "(?P<file>[^"\n]*)", line \d+, in (?P<function>.*)\n(?:    (?P<line>.*))?', re.MULTILINE)
_NOT_OWN = re.compile(r"site-packages|dist-packages|lib/python3|<frozen |(?:tasks|celery_partitions)/(?:model|worker|store)/")
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:\.\d+)?")
_NUMBER = re.compile(r"[0-9]+")
#: Of one reading round trip, about: a letter has up to 1.3 MB.
PAGE_BYTES = 4_000_000
#: Letters of one reading round trip while nothing is known of their size, and of any.
FIRST_PAGE, MOST_OF_A_PAGE = 8, 100
#: Ids that an audit record names of one action on many letters.
MOST_IDS = 100


class LetterPlace(NamedTuple):
    """Where a dead letter is and when it died, without its message: of these any number can be kept."""

    id: str
    unit: str
    died_at: float
    in_place: bool

    @classmethod
    def of(cls, letter: DeadLetter) -> LetterPlace:
        return cls(letter.id, letter.unit, letter.died_at, letter.in_place)


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """Letters of like failures."""

    fingerprint: str
    count: int
    #: Of those, how many wait in their place.
    in_place: int
    newest: DeadLetter
    oldest_died_at: float


class DeadLetters:
    """The dead letters of a group."""

    def __init__(self, client: redis.Redis, names: Names, partitions: int) -> None:
        self.client, self.names, self.partitions = client, names, partitions
        self.audit = Audit(client, names)
        self.parked = ParkedKeys(client, names, partitions, self.audit)

    def all(self) -> Iterator[DeadLetter]:
        """Every dead letter, scanned, in no order."""
        for unit in units(self.partitions):
            cursor, count = 0, FIRST_PAGE
            while True:
                cursor, rows = cast(Any, self.client.hscan(self.names.dead(unit), cursor, count=count))
                for field, row in rows.items():
                    yield _read(field, row, unit)
                if cursor == 0:
                    break
                size = sum(map(len, rows.values()))
                fitting = len(rows) * PAGE_BYTES // size if size else MOST_OF_A_PAGE
                count = max(1, min(fitting, 2 * count, MOST_OF_A_PAGE))

    def count(self) -> int:
        """How many there are."""
        with self.client.pipeline(transaction=False) as pipe:
            for unit in units(self.partitions):
                pipe.hlen(self.names.dead(unit))
            return sum(pipe.execute())

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

    def whole(self, letters: Sequence[DeadLetter | LetterPlace]) -> Iterator[DeadLetter]:
        """Those that are still there, as they are now, with few of their messages in memory at a time."""
        for start in range(0, len(letters), FIRST_PAGE):
            page = [(one.id.encode("utf-8", "surrogateescape"), one.unit) for one in letters[start : start + FIRST_PAGE]]
            with self.client.pipeline(transaction=False) as pipe:
                for field, unit in page:
                    pipe.hget(self.names.dead(unit), cast(str, field))
                rows = pipe.execute()
            for (field, unit), row in zip(page, rows, strict=True):
                if row is not None:
                    yield _read(field, row, unit)

    def retry(self, letters: Sequence[DeadLetter | LetterPlace], *, by: str = "") -> int:
        """Try each again, in the order given (`died`): `in_place` ones where they stand, others at the end of the queue they died in.

        Returns how many were still dead letters.
        """
        self._record(by, "dead-letters retry", letters)
        back = 0
        for letter in self.whole(letters):
            if letter.in_place:
                parked = self.parked.of_letter(letter)
                back += parked is not None and self.parked.retry(parked.key, by=by) == "ok"
                continue
            names, unit, task = self.names, letter.unit, letter.task or ""
            back += script("retry_dead_letter").run(
                self.client,
                [
                    names.dead(unit),
                    names.queue(unit),
                    names.seen(unit, task, "young"),
                    names.seen(unit, task, "old"),
                    names.dead_raw(unit),
                ],
                [letter.id, base64.b64decode(letter.raw), spell_id(letter.message_id or "")],
            )
        return back

    def discard(self, letters: Sequence[DeadLetter | LetterPlace], *, by: str = "") -> int:
        """Delete them for good, and the messages of those that are in their place. Returns how many were there."""
        self._record(by, "dead-letters discard", letters)
        gone = 0
        for letter in self.whole(letters):
            parked = self.parked.of_letter(letter) if letter.in_place else None
            if parked is not None:
                gone += self.parked.discard(parked.key, by=by, of=parked.fact) == "ok"
            else:
                if letter.apart:
                    self.client.hdel(self.names.dead_raw(letter.unit), letter.id)
                gone += int(self.client.hdel(self.names.dead(letter.unit), letter.id))
        return gone

    def raw(self, letter: DeadLetter) -> bytes:
        """The message itself, which may be hundreds of megabytes where it is kept apart."""
        if not letter.apart:
            return base64.b64decode(letter.raw)
        return cast(bytes, self.client.hget(self.names.dead_raw(letter.unit), letter.id) or b"")

    def _record(self, by: str, what: str, letters: Sequence[DeadLetter | LetterPlace]) -> None:
        if letters:
            detail = {"letters": len(letters), "ids": [letter.id for letter in letters[:MOST_IDS]]}
            self.audit.add(self.client, by, what, detail)


def died(letter: DeadLetter | LetterPlace) -> tuple[float, list[tuple[int, str]]]:
    """To sort by, so that the letters of a key go back in their order: when a letter died, and the numbers in its id.

    A commit's letters died at one moment, and have its position and their number in it.
    """
    numbers = _NUMBER.findall(letter.id)
    return letter.died_at, [(len(number), number) for number in numbers]  # as text: an id that is not ours may be of any length


def fingerprint(letter: DeadLetter) -> str:
    """Eight hex digits that like failures share: reason, computation, the error's type, and where in one's own code.

    Where: file, function and text of the line, not its number, so that an edit above it does not part the group.
    """
    where = ""
    for frame in _FRAME.finditer(letter.trace):
        if not where or not _NOT_OWN.search(frame["file"]):
            file = "/".join(frame["file"].replace("\\", "/").rsplit("/", 2)[-2:])
            where = f"{file} {frame['function']} {(frame['line'] or '').strip()}"
    kind = letter.error.partition(":")[0] if where else _VARYING.sub("?", letter.error)[:200]
    words = "\n".join((letter.reason, letter.task or "", kind, where))
    return sha1(words.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:8]


def grouped(letters: Iterable[DeadLetter]) -> list[LetterGroup]:
    """Like failures together, the most frequent first. Keeps one letter a group in memory."""
    found: dict[str, LetterGroup] = {}
    for letter in letters:
        name = fingerprint(letter)
        before = found.get(name) or LetterGroup(name, 0, 0, letter, letter.died_at)
        found[name] = LetterGroup(
            name,
            before.count + 1,
            before.in_place + letter.in_place,
            max(before.newest, letter, key=lambda one: one.died_at),
            min(before.oldest_died_at, letter.died_at),
        )
    return sorted(found.values(), key=lambda group: (-group.count, group.fingerprint))


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
