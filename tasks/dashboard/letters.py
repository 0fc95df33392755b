"""Dead letters as the page finds and groups them. Blocks: called in Flower's executor."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tasks.operating.dead_letters import DeadLetters, LetterGroup, died, fingerprint, grouped, raw_text
from tasks.operating.documents import MOST_TEXT_CHARACTERS, json_letter, json_message
from tasks.producer.installation import Installation
from tasks.store.letters import DeadLetter

#: Looked at for one page; the count of all is known without.
MOST_SCANNED = 20_000
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


def find_letters(installation: Installation, asked: Asked) -> dict[str, Any]:
    """Like failures together, the most frequent first, each with its newest letters."""
    letters = installation.group.dead_letters
    total = letters.count()
    scanned = list(islice(letters.all(), MOST_SCANNED))
    found = [one for one in scanned if fits(one, asked)]
    most = MOST_OF_ONE_GROUP if asked.fingerprint else MOST_OF_A_GROUP
    gathered: dict[str, list[DeadLetter]] = {}
    for one in sorted(found, key=lambda letter: -letter.died_at):
        newest = gathered.setdefault(fingerprint(one), [])
        if len(newest) < most:
            newest.append(one)
    groups = grouped(found)
    return {
        "total": total,
        "scanned": len(scanned),
        "found": len(found),
        "found_groups": len(groups),
        "at": installation.group.now(),
        "groups": [_group(one, gathered[one.fingerprint]) for one in groups[:MOST_GROUPS]],
    }


def picked(letters: DeadLetters, ids: list[str], asked: Asked) -> list[DeadLetter]:
    """The dead letters that an action is about: those of the ids, or all that fit, the first that died first."""
    if ids:
        return [letter for letter in map(letters.get, ids) if letter is not None]
    return sorted((one for one in letters.all() if fits(one, asked)), key=died)


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


def _group(group: LetterGroup, newest: list[DeadLetter]) -> dict[str, Any]:
    last = group.newest
    return {
        "fingerprint": group.fingerprint,
        "count": group.count,
        "in_place": group.in_place,
        "reason": last.reason,
        "task": last.task,
        "error": last.error,
        "newest_died_at": last.died_at,
        "oldest_died_at": group.oldest_died_at,
        "letters": [_letter(one) for one in newest],
    }


def _letter(letter: DeadLetter) -> dict[str, Any]:
    found = json_letter(letter)
    del found["raw"]
    found["text"] = _text(letter)
    if len(found["message"]) > MOST_TEXT_CHARACTERS:
        found["message"] = found["message"][:MOST_TEXT_CHARACTERS] + "…"
    return found
