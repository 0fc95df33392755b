"""Dead letters as the page finds and groups them. Blocks: called in Flower's executor."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from heapq import heappush, heappushpop
from itertools import islice
from typing import Any

from celery_partitions.admin.dead_letters import DeadLetterPlace, DeadLetters, died, fingerprint, raw_text
from celery_partitions.admin.documents import MAX_TEXT_CHARACTERS, json_dead_letter, json_message
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.dead_letters import DeadLetter

#: Looked at for one page; the count of all is known without.
MAX_SCANNED = 20_000
#: Read for one page: a second's work, and a page of up to 2,000 dead letters is read anew each ten seconds.
MAX_SCANNED_BYTES = 100_000_000
MAX_GROUPS = 100
#: Shown of each group; of a group that is asked for alone, more.
MAX_OF_A_GROUP = 10
MAX_OF_ONE_GROUP = 200


@dataclass(frozen=True, slots=True)
class DeadLetterQuery:
    """Which dead letters: all four must fit; an empty one fits all."""

    #: In key, id, message id, task, error, traceback or the message.
    text: str = ""
    partition: str = ""
    reason: str = ""
    fingerprint: str = ""

    @property
    def anything(self) -> bool:
        return bool(self.text or self.partition or self.reason or self.fingerprint)


class _Gathered:
    """Letters of like failures, while they are looked through: counted, and the places of the newest, without their messages."""

    def __init__(self, limit: int) -> None:
        self.limit, self.count, self.in_place = limit, 0, 0
        self.oldest_died_at = math.inf
        self.newest_died_at = 0.0
        self._last: Any = ()
        self.meta: dict[str, Any] = {}
        self._newest: list[tuple[Any, DeadLetterPlace]] = []

    def add(self, dead_letter: DeadLetter) -> None:
        self.count += 1
        self.in_place += dead_letter.in_place
        self.oldest_died_at = min(self.oldest_died_at, dead_letter.died_at)
        order = died(dead_letter)
        if order > self._last:
            self._last, self.newest_died_at = order, dead_letter.died_at
            self.meta = {"reason": dead_letter.reason, "task": dead_letter.task, "error": dead_letter.error}
        (heappush if len(self._newest) < self.limit else heappushpop)(self._newest, (order, DeadLetterPlace.of(dead_letter)))

    @property
    def newest(self) -> list[DeadLetterPlace]:
        return [place for _, place in sorted(self._newest, reverse=True)]


def find_dead_letters(installation: Installation, asked: DeadLetterQuery) -> dict[str, Any]:
    """Like failures together, the most frequent first, each with its newest dead letters."""
    dead_letters = installation.group.dead_letters
    total = dead_letters.count()
    limit = MAX_OF_ONE_GROUP if asked.fingerprint else MAX_OF_A_GROUP
    gathered: dict[str, _Gathered] = {}
    scanned = size = 0
    for dead_letter in islice(dead_letters.all(), MAX_SCANNED):
        scanned += 1
        size += len(dead_letter.raw) + len(dead_letter.trace) + len(dead_letter.error)
        if fits(dead_letter, asked):
            gathered.setdefault(fingerprint(dead_letter), _Gathered(limit)).add(dead_letter)
        if size >= MAX_SCANNED_BYTES:
            break
    groups = sorted(gathered.items(), key=lambda item: (-item[1].count, item[0]))
    return {
        "total": total,
        "scanned": scanned,
        "found": sum(group.count for group in gathered.values()),
        "found_groups": len(groups),
        "at": installation.group.now(),
        "groups": [_group(dead_letters, name, group) for name, group in groups[:MAX_GROUPS]],
    }


def picked(dead_letters: DeadLetters, ids: list[str], asked: DeadLetterQuery) -> list[DeadLetterPlace]:
    """The dead letters that an action is about: those of the ids, or all that fit, the first that died first."""
    if ids:
        return [DeadLetterPlace.of(dead_letter) for dead_letter in map(dead_letters.get, ids) if dead_letter is not None]
    return sorted((DeadLetterPlace.of(dead_letter) for dead_letter in dead_letters.all() if fits(dead_letter, asked)), key=died)


def fits(dead_letter: DeadLetter, asked: DeadLetterQuery) -> bool:
    """Whether a dead letter is one of those asked for."""
    if asked.partition not in ("", dead_letter.partition) or asked.reason not in ("", dead_letter.reason):
        return False
    if asked.fingerprint not in ("", fingerprint(dead_letter)):
        return False
    wanted = asked.text.casefold()
    if not wanted:
        return True
    said = (dead_letter.key, dead_letter.id, dead_letter.message_id, dead_letter.task, dead_letter.error, dead_letter.trace)
    return any(wanted in (text or "").casefold() for text in said) or wanted in _content(dead_letter).casefold()


def _content(dead_letter: DeadLetter) -> str:
    """The message as it came, and what its body says: that is base64 in most."""
    return raw_text(dead_letter) + _text(dead_letter)


def _text(dead_letter: DeadLetter) -> str:
    return "" if dead_letter.apart else str(json_message(base64.b64decode(dead_letter.raw))["text"])


def _group(dead_letters: DeadLetters, name: str, group: _Gathered) -> dict[str, Any]:
    return {
        "fingerprint": name,
        "count": group.count,
        "in_place": group.in_place,
        **group.meta,
        "newest_died_at": group.newest_died_at,
        "oldest_died_at": group.oldest_died_at,
        "dead_letters": [_dead_letter(one) for one in dead_letters.whole(group.newest)],
    }


def _dead_letter(dead_letter: DeadLetter) -> dict[str, Any]:
    found = json_dead_letter(dead_letter)
    del found["raw"]
    found["text"] = _text(dead_letter)
    if len(found["message"]) > MAX_TEXT_CHARACTERS:
        found["message"] = found["message"][:MAX_TEXT_CHARACTERS] + "…"
    return found
