"""Dead letters as the page finds and groups them. Blocks: called in Flower's executor."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from heapq import heappush, heappushpop
from itertools import islice
from typing import Any

from celery_partitions.operating.dead_letters import DeadLetters, LetterPlace, died, fingerprint, raw_text
from celery_partitions.operating.documents import MOST_TEXT_CHARACTERS, json_letter, json_message
from celery_partitions.producer.installation import Installation
from celery_partitions.store.letters import DeadLetter

#: Looked at for one page; the count of all is known without.
MOST_SCANNED = 20_000
#: Read for one page: a second's work, and a page of up to 2,000 letters is read anew each ten seconds.
MOST_SCANNED_BYTES = 100_000_000
MOST_GROUPS = 100
#: Shown of each group; of a group that is asked for alone, more.
MOST_OF_A_GROUP = 10
MOST_OF_ONE_GROUP = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """Which dead letters: all four must fit; an empty one fits all."""

    #: In key, id, message id, task, error, traceback or the message.
    text: str = ""
    unit: str = ""
    reason: str = ""
    fingerprint: str = ""

    @property
    def anything(self) -> bool:
        return bool(self.text or self.unit or self.reason or self.fingerprint)


class _Gathered:
    """Letters of like failures, while they are looked through: counted, and the places of the newest, without their messages."""

    def __init__(self, most: int) -> None:
        self.most, self.count, self.in_place = most, 0, 0
        self.oldest_died_at = math.inf
        self.newest_died_at = 0.0
        self._last: Any = ()
        self.facts: dict[str, Any] = {}
        self._newest: list[tuple[Any, LetterPlace]] = []

    def add(self, letter: DeadLetter) -> None:
        self.count += 1
        self.in_place += letter.in_place
        self.oldest_died_at = min(self.oldest_died_at, letter.died_at)
        order = died(letter)
        if order > self._last:
            self._last, self.newest_died_at = order, letter.died_at
            self.facts = {"reason": letter.reason, "task": letter.task, "error": letter.error}
        (heappush if len(self._newest) < self.most else heappushpop)(self._newest, (order, LetterPlace.of(letter)))

    @property
    def newest(self) -> list[LetterPlace]:
        return [place for _, place in sorted(self._newest, reverse=True)]


def find_letters(installation: Installation, asked: Asked) -> dict[str, Any]:
    """Like failures together, the most frequent first, each with its newest letters."""
    letters = installation.group.dead_letters
    total = letters.count()
    most = MOST_OF_ONE_GROUP if asked.fingerprint else MOST_OF_A_GROUP
    gathered: dict[str, _Gathered] = {}
    scanned = size = 0
    for letter in islice(letters.all(), MOST_SCANNED):
        scanned += 1
        size += len(letter.raw) + len(letter.trace) + len(letter.error)
        if fits(letter, asked):
            gathered.setdefault(fingerprint(letter), _Gathered(most)).add(letter)
        if size >= MOST_SCANNED_BYTES:
            break
    groups = sorted(gathered.items(), key=lambda item: (-item[1].count, item[0]))
    return {
        "total": total,
        "scanned": scanned,
        "found": sum(group.count for group in gathered.values()),
        "found_groups": len(groups),
        "at": installation.group.now(),
        "groups": [_group(letters, name, group) for name, group in groups[:MOST_GROUPS]],
    }


def picked(letters: DeadLetters, ids: list[str], asked: Asked) -> list[LetterPlace]:
    """The dead letters that an action is about: those of the ids, or all that fit, the first that died first."""
    if ids:
        return [LetterPlace.of(letter) for letter in map(letters.get, ids) if letter is not None]
    return sorted((LetterPlace.of(letter) for letter in letters.all() if fits(letter, asked)), key=died)


def fits(letter: DeadLetter, asked: Asked) -> bool:
    """Whether a letter is one of those asked for."""
    if asked.unit not in ("", letter.unit) or asked.reason not in ("", letter.reason):
        return False
    if asked.fingerprint not in ("", fingerprint(letter)):
        return False
    wanted = asked.text.casefold()
    if not wanted:
        return True
    said = (letter.key, letter.id, letter.message_id, letter.task, letter.error, letter.trace)
    return any(wanted in (text or "").casefold() for text in said) or wanted in _content(letter).casefold()


def _content(letter: DeadLetter) -> str:
    """The message as it came, and what its body says: that is base64 in most."""
    return raw_text(letter) + _text(letter)


def _text(letter: DeadLetter) -> str:
    return "" if letter.apart else str(json_message(base64.b64decode(letter.raw))["text"])


def _group(letters: DeadLetters, name: str, group: _Gathered) -> dict[str, Any]:
    return {
        "fingerprint": name,
        "count": group.count,
        "in_place": group.in_place,
        **group.facts,
        "newest_died_at": group.newest_died_at,
        "oldest_died_at": group.oldest_died_at,
        "letters": [_letter(one) for one in letters.whole(group.newest)],
    }


def _letter(letter: DeadLetter) -> dict[str, Any]:
    found = json_letter(letter)
    del found["raw"]
    found["text"] = _text(letter)
    if len(found["message"]) > MOST_TEXT_CHARACTERS:
        found["message"] = found["message"][:MOST_TEXT_CHARACTERS] + "…"
    return found
