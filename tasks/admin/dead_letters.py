"""Operators' actions on dead letters: list, show, retry, discard; and the fingerprint that similar failures share."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import Any, NamedTuple, cast

import msgspec
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.retries import Progress, Retries
from celery_partitions.model.deduplication import normalize_id
from celery_partitions.model.keys import key_bytes, keys_shown_as
from celery_partitions.model.own_lines import own_line
from celery_partitions.model.task_lines import line_of_task
from celery_partitions.model.topology import Topology
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.hashes import filled
from celery_partitions.store.names import Names, partitions_and_ingress
from celery_partitions.store.scripts import script

#: A traceback's frames. Those of Python, of installed packages and of our own step are not the user's code.
_FRAME = re.compile(r'^  File "(?P<file>[^"\n]*)", line \d+, in (?P<function>.*)\n(?:    (?P<line>.*))?', re.MULTILINE)
_NOT_OWN = re.compile(r"site-packages|dist-packages|lib/python3|<frozen |(?:tasks|celery_partitions)/(?:model|worker|store)/")
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:\.\d+)?")
_NUMBER = re.compile(r"[0-9]+")
#: About this much is read in one round trip. A dead letter may take 1.3 MB.
PAGE_BYTES = 4_000_000
#: Dead letters in the first round trip, when their size is not known yet, and in any.
FIRST_PAGE, MAX_OF_A_PAGE = 8, 100
#: Reasons whose messages keep the order of their key when they are retried.
KEEP_ORDER = ("unknown-task", "unreadable-state")
#: Above this, what is retried in order is put back in several steps.
MAX_BYTES_IN_ORDER = 32_000_000
#: How many ids an audit record lists for one action.
MAX_IDS = 100


class DeadLetterPlace(NamedTuple):
    """A dead letter's place and time, without its message: small enough to keep any number in memory."""

    id: str
    partition: str
    died_at: float
    in_place: bool

    @classmethod
    def of(cls, dead_letter: DeadLetter) -> DeadLetterPlace:
        return cls(dead_letter.id, dead_letter.partition, dead_letter.died_at, dead_letter.in_place)


class DeadLetters:
    """The dead letters of a group."""

    def __init__(self, client: redis.Redis, names: Names, topology: Topology) -> None:
        self.client, self.names, self.topology = client, names, topology
        self.audit = Audit(client, names)
        self.retries = Retries(client, names)
        self.parked = ParkedKeys(client, names, topology, self.audit)

    def all(self) -> Iterator[DeadLetter]:
        """Every dead letter, in no particular order. Scans Redis page by page."""
        every = partitions_and_ingress(self.topology.served)
        there = filled(self.client, map(self.names.dead, every))
        for partition in (one for one in every if self.names.dead(one) in there):
            cursor, count = 0, FIRST_PAGE
            while True:
                cursor, rows = cast(Any, self.client.hscan(self.names.dead(partition), cursor, count=count))
                for field, row in rows.items():
                    yield _read(field, row, partition)
                if cursor == 0:
                    break
                size = sum(map(len, rows.values()))
                fitting = len(rows) * PAGE_BYTES // size if size else MAX_OF_A_PAGE
                count = max(1, min(fitting, 2 * count, MAX_OF_A_PAGE))

    def count(self) -> int:
        """The number of dead letters."""
        with self.client.pipeline(transaction=False) as pipe:
            for partition in partitions_and_ingress(self.topology.served):
                pipe.hlen(self.names.dead(partition))
            return sum(pipe.execute())

    def get(self, dead_letter_id: str) -> DeadLetter | None:
        """The dead letter with this id; None if there is none (any more)."""
        field = dead_letter_id.encode("utf-8", "surrogateescape")
        all_partitions = partitions_and_ingress(self.topology.served)
        with self.client.pipeline(transaction=False) as pipe:
            for partition in all_partitions:
                pipe.hget(self.names.dead(partition), cast(str, field))
            rows = pipe.execute()
        return next(
            (_read(field, row, partition) for partition, row in zip(all_partitions, rows, strict=True) if row is not None), None
        )

    def whole(self, dead_letters: Sequence[DeadLetter | DeadLetterPlace]) -> Iterator[DeadLetter]:
        """The dead letters that still exist, read again in small pages, so that few messages are in memory together."""
        for start in range(0, len(dead_letters), FIRST_PAGE):
            page = [(one.id.encode("utf-8", "surrogateescape"), one.partition) for one in dead_letters[start : start + FIRST_PAGE]]
            with self.client.pipeline(transaction=False) as pipe:
                for field, partition in page:
                    pipe.hget(self.names.dead(partition), cast(str, field))
                rows = pipe.execute()
            for (field, partition), row in zip(page, rows, strict=True):
                if row is not None:
                    yield _read(field, row, partition)

    def retry(self, dead_letters: Sequence[DeadLetter | DeadLetterPlace], *, by: str = "", progress: Progress | None = None) -> int:
        """Retry each, in the given order (sort by `died`). An `in_place` one is retried in its original position. One whose task was
        unknown, or whose key's state could not be read, goes before what waits for its key. Any other goes to the end of the queue it
        came from.

        Returns how many of them still existed.
        """
        self._record(by, "dead-letters retry", dead_letters)
        back, keeps_order = 0, False
        for dead_letter in self.whole(dead_letters):
            if progress is not None:
                progress.passed(dead_letter)
            if dead_letter.reason in KEEP_ORDER and not dead_letter.in_place:
                keeps_order = True
                continue
            if dead_letter.in_place:
                parked = self.parked.of_dead_letter(dead_letter)
                back += parked is not None and self.parked.retry(parked.key, by=by) == "ok"
                continue
            names, partition, task = self.names, dead_letter.partition, dead_letter.task or ""
            back += script("retry_dead_letter").run(
                self.client,
                [
                    names.dead(partition),
                    names.queue(partition),
                    names.deduplication(partition, task, "young"),
                    names.deduplication(partition, task, "old"),
                    names.dead_raw(partition),
                ],
                [dead_letter.id, base64.b64decode(dead_letter.raw), normalize_id(dead_letter.message_id or "")],
            )
        return back + (self._retry_in_order(dead_letters) if keeps_order else 0)

    def _retry_in_order(self, dead_letters: Sequence[DeadLetter | DeadLetterPlace]) -> int:
        """Retry those in `KEEP_ORDER`: all of a key, or of an unknown task, in one step, so that a worker can't take a younger one first."""
        groups: dict[tuple[str, str], list[DeadLetter]] = {}
        back = size = 0
        for dead_letter in self.whole(dead_letters[::-1]):  # the youngest first, because each group goes before those put back earlier
            if dead_letter.reason in KEEP_ORDER and not dead_letter.in_place:
                groups.setdefault((dead_letter.partition, self._waits_as(dead_letter)), []).append(dead_letter)
                size += len(dead_letter.raw)
            if size > MAX_BYTES_IN_ORDER:
                back += sum(self._put_back(*group, ones[::-1]) for group, ones in groups.items())
                groups, size = {}, 0
        return back + sum(self._put_back(*group, ones[::-1]) for group, ones in groups.items())

    def _put_back(self, partition: str, key: str, dead_letters: Sequence[DeadLetter]) -> int:
        """Put messages of one key or line back, oldest first."""
        names = self.names
        keys: list[str | bytes] = [
            names.dead(partition), names.dead_raw(partition), names.queue(partition), names.parked(partition), names.mailbox(partition, key),
            names.meta(partition), names.parked_due(partition),
        ]  # fmt: skip
        words: list[Any] = [key_bytes(key), names.changed]
        numbers: dict[str, int] = {}
        for one in dead_letters:
            task = one.task or ""
            if task not in numbers:
                numbers[task] = len(keys) + 1
                keys += [names.deduplication(partition, task, "young"), names.deduplication(partition, task, "old")]
            words += [one.id, base64.b64decode(one.raw), normalize_id(one.message_id or ""), numbers[task]]
        return int(script("retry_in_order").run(self.client, keys, words))

    def _waits_as(self, dead_letter: DeadLetter) -> str:
        """The key of a dead letter's message, or the line where messages like it wait; "" if it is not known."""
        partition, task = dead_letter.partition, dead_letter.task or ""
        likely = [] if dead_letter.key is None else keys_shown_as(dead_letter.key)
        key = next((key for key in likely if str(self.topology.partition_of(key)) == partition), "")
        if dead_letter.reason == "unknown-task":
            return key or line_of_task(task, partition)
        line = own_line(key, task)
        return line if self.client.hexists(self.names.parked(partition), cast(str, key_bytes(line))) else key

    def discard(self, dead_letters: Sequence[DeadLetter | DeadLetterPlace], *, by: str = "") -> int:
        """Delete them permanently, including the waiting messages of `in_place` ones. Returns how many still existed."""
        self._record(by, "dead-letters discard", dead_letters)
        gone = 0
        for dead_letter in self.whole(dead_letters):
            parked = self.parked.of_dead_letter(dead_letter) if dead_letter.in_place else None
            if parked is not None:
                gone += self.parked.discard(parked.key, by=by, of=parked) == "ok"
            else:
                if dead_letter.apart:
                    self.client.hdel(self.names.dead_raw(dead_letter.partition), dead_letter.id)
                gone += int(self.client.hdel(self.names.dead(dead_letter.partition), dead_letter.id))
        return gone

    def raw(self, dead_letter: DeadLetter) -> bytes:
        """The message itself. One that is stored separately may take hundreds of megabytes."""
        if not dead_letter.apart:
            return base64.b64decode(dead_letter.raw)
        return cast(bytes, self.client.hget(self.names.dead_raw(dead_letter.partition), dead_letter.id) or b"")

    def _record(self, by: str, what: str, dead_letters: Sequence[DeadLetter | DeadLetterPlace]) -> None:
        if dead_letters:
            detail = {"dead_letters": len(dead_letters), "ids": [dead_letter.id for dead_letter in dead_letters[:MAX_IDS]]}
            self.audit.add(self.client, by, what, detail)


def died(dead_letter: DeadLetter | DeadLetterPlace) -> tuple[float, list[tuple[int, str]]]:
    """The sort key that keeps the order of a key's messages: the time of the dead letter, then the numbers in its id.

    All dead letters of one commit have the same time. Their ids contain the commit number and their number in the commit.
    """
    numbers = _NUMBER.findall(dead_letter.id)
    return dead_letter.died_at, [(len(number), number) for number in numbers]  # compared as text, because a foreign id may have any number of digits


def fingerprint(dead_letter: DeadLetter) -> str:
    """Eight hex digits that similar failures share: same reason, computation, error type and place in the user's code.

    The place is file, function and text of the line. The line number is left out, so that an edit above it keeps the group together.
    """
    where = ""
    for frame in _FRAME.finditer(dead_letter.trace):
        if not where or not _NOT_OWN.search(frame["file"]):
            file = "/".join(frame["file"].replace("\\", "/").rsplit("/", 2)[-2:])
            where = f"{file} {frame['function']} {(frame['line'] or '').strip()}"
    kind = dead_letter.error.partition(":")[0] if where else _VARYING.sub("?", dead_letter.error)[:200]
    words = "\n".join((dead_letter.reason, dead_letter.task or "", kind, where))
    return sha1(words.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:8]


def raw_text(dead_letter: DeadLetter) -> str:
    """The raw message as text for people, or a note that it is stored separately."""
    if dead_letter.apart:
        return f"(too long to show, and stored separately: field {dead_letter.id} of the hash dead:raw of its partition)"
    return base64.b64decode(dead_letter.raw).decode("utf-8", "backslashreplace")


def _read(field: bytes, row: bytes, partition: str) -> DeadLetter:
    try:
        dead_letter = msgspec.json.decode(row, type=DeadLetter)
        base64.b64decode(dead_letter.raw, validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error):
        # Not written by us. Show it, so that an operator can discard it.
        raw = base64.b64encode(row).decode()
        name = field.decode("utf-8", "backslashreplace")
        return DeadLetter(name, partition, "unreadable-record", "not written by a worker", "", None, None, None, 0, 0.0, raw)
    return dead_letter
