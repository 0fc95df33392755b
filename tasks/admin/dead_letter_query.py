"""Selects dead letters and groups similar ones, for the commands and for the pages."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable
from heapq import heappush, heappushpop
from typing import Any

import msgspec

from celery_partitions.admin.dead_letters import DeadLetterPlace, DeadLetters, died, fingerprint, raw_text
from celery_partitions.admin.documents import json_message
from celery_partitions.store.dead_letters import DeadLetter

#: Different texts that are counted in a group.
MAX_TEXTS = 100


class DeadLetterQuery(msgspec.Struct, frozen=True):
    """A dead letter fits if all fields match. An empty field matches every dead letter."""

    #: Searched in key, id, message id, task, error, traceback and message. Case does not matter.
    text: str = ""
    partition: str = ""
    reason: str = ""
    fingerprint: str = ""
    #: It died at or after this time, and before that one: seconds since the epoch, by the server's clock. 0: at any time.
    after: float = 0.0
    before: float = 0.0
    #: The computation's name, as in the message.
    task: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are not empty, as in the body of an action."""
        return {name: value for name in DeadLetterQuery.__struct_fields__ if (value := getattr(self, name))}

    @property
    def anything(self) -> bool:
        return bool(self.fields)

    def fits(self, dead_letter: DeadLetter) -> bool:
        """Whether the dead letter matches the query."""
        if self.partition not in ("", dead_letter.partition) or self.reason not in ("", dead_letter.reason):
            return False
        if self.task not in ("", dead_letter.task or ""):
            return False
        if not self.after <= dead_letter.died_at < (self.before or math.inf):
            return False
        if self.fingerprint not in ("", fingerprint(dead_letter)):
            return False
        wanted = self.text.casefold()
        if not wanted:
            return True
        one = dead_letter
        fields = (one.key, one.id, one.message_id, one.task, one.error, one.trace)
        return any(wanted in (field or "").casefold() for field in fields) or wanted in _message(one).casefold()

    def places(self, dead_letters: DeadLetters) -> list[DeadLetterPlace]:
        """The places of all dead letters that match, oldest first."""
        return sorted((DeadLetterPlace.of(one) for one in dead_letters.all() if self.fits(one)), key=died)


class DeadLetterGroup:
    """Similar failures: their number, and the places of the newest `limit`. Keeps no message in memory."""

    def __init__(self, fingerprint: str, limit: int) -> None:
        self.fingerprint, self.limit = fingerprint, limit
        self.count, self.in_place = 0, 0
        self.oldest_died_at = math.inf
        self.newest_died_at = 0.0
        #: Those of the newest dead letter.
        self.reason, self.error = "", ""
        self.task: str | None = None
        #: How often each text occurs. Similar failures may have different texts; the first of them are counted.
        self.texts = Counter[str]()
        self._last: Any = ()
        self._newest: list[tuple[Any, DeadLetterPlace]] = []

    def add(self, dead_letter: DeadLetter) -> None:
        self.count += 1
        self.in_place += dead_letter.in_place
        self.oldest_died_at = min(self.oldest_died_at, dead_letter.died_at)
        if dead_letter.error in self.texts or len(self.texts) < MAX_TEXTS:
            self.texts[dead_letter.error] += 1
        order = died(dead_letter)
        if order > self._last:
            self._last, self.newest_died_at = order, dead_letter.died_at
            self.reason, self.task, self.error = dead_letter.reason, dead_letter.task, dead_letter.error
        (heappush if len(self._newest) < self.limit else heappushpop)(self._newest, (order, DeadLetterPlace.of(dead_letter)))

    @property
    def newest(self) -> list[DeadLetterPlace]:
        """The places of the newest dead letters, newest first."""
        return [place for _, place in sorted(self._newest, reverse=True)]


def grouped(dead_letters: Iterable[DeadLetter], limit: int = 1) -> list[DeadLetterGroup]:
    """Group similar failures, the most frequent first. Each group keeps the places of its newest `limit` dead letters."""
    found: dict[str, DeadLetterGroup] = {}
    for one in dead_letters:
        name = fingerprint(one)
        group = found.get(name)
        if group is None:
            group = found[name] = DeadLetterGroup(name, limit)
        group.add(one)
    return sorted(found.values(), key=lambda group: (-group.count, group.fingerprint))


def message_text(dead_letter: DeadLetter) -> str:
    """The decoded body of the message (most bodies are base64). Empty if the message is stored separately."""
    return "" if dead_letter.apart else str(json_message(base64.b64decode(dead_letter.raw))["text"])


def _message(dead_letter: DeadLetter) -> str:
    return raw_text(dead_letter) + message_text(dead_letter)
