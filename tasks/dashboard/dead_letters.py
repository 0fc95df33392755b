"""The data of the dead-letter page. Blocks, so it runs in Flower's executor."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from celery_partitions.admin.dead_letter_query import DeadLetterGroup, DeadLetterQuery, grouped, message_text
from celery_partitions.admin.dead_letters import DeadLetters
from celery_partitions.admin.documents import MAX_TEXT_CHARACTERS, json_dead_letter
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.dead_letters import DeadLetter

#: How many dead letters one page reads. The total is counted without reading them.
MAX_SCANNED = 20_000
#: How much one page reads: about a second of work. A page of up to 2,000 dead letters refreshes every ten seconds.
MAX_SCANNED_BYTES = 100_000_000
MAX_GROUPS = 100
#: Dead letters shown for each group, and for a single group.
MAX_OF_A_GROUP = 10
MAX_OF_ONE_GROUP = 200
#: Different texts of a group.
MAX_TEXTS = 5
#: However often one asks for more.
MAX_SHOWN = 2_000


class _Scan:
    """The matching dead letters among the first ones, as far as one page may read."""

    def __init__(self, dead_letters: DeadLetters, query: DeadLetterQuery) -> None:
        self.dead_letters, self.query, self.scanned = dead_letters, query, 0
        self.reasons, self.tasks = {query.reason} - {""}, {query.task} - {""}
        #: When each dead letter of a known message died.
        self.died: list[tuple[float, str]] = []

    def __iter__(self) -> Iterator[DeadLetter]:
        size = 0
        for one in islice(self.dead_letters.all(), MAX_SCANNED):
            self.scanned += 1
            self.died += [(one.died_at, one.message_id)] if one.message_id else []
            self.reasons.add(one.reason)
            self.tasks |= {one.task} if one.task else set()
            size += len(one.raw) + len(one.trace) + len(one.error)
            if self.query.fits(one):
                yield one
            if size >= MAX_SCANNED_BYTES:
                break


def find_dead_letters(installation: Installation, query: DeadLetterQuery, shown: int = MAX_OF_ONE_GROUP) -> dict[str, Any]:
    """Similar failures as groups, the most frequent first, each with its newest dead letters. `shown`: of a single group."""
    dead_letters = installation.group.dead_letters
    total = dead_letters.count()
    scan = _Scan(dead_letters, query)
    groups = grouped(scan, min(shown, MAX_SHOWN) if query.fingerprint else MAX_OF_A_GROUP)
    return {
        "total": total,
        "scanned": scan.scanned,
        "found": sum(group.count for group in groups),
        "found_groups": len(groups),
        "at": installation.group.now(),
        "retries": dead_letters.retries.last(scan.died),
        "query": query.fields,
        "shown": shown,
        "reasons": sorted(scan.reasons),
        "tasks": sorted(scan.tasks),
        "groups": [_group(dead_letters, group) for group in groups[:MAX_GROUPS]],
    }


def _group(dead_letters: DeadLetters, group: DeadLetterGroup) -> dict[str, Any]:
    return {
        "fingerprint": group.fingerprint,
        "count": group.count,
        "in_place": group.in_place,
        "reason": group.reason,
        "task": group.task,
        "error": group.error,
        "texts": [{"error": text, "count": count} for text, count in group.texts.most_common(MAX_TEXTS)],
        "newest_died_at": group.newest_died_at,
        "oldest_died_at": group.oldest_died_at,
        "dead_letters": [_dead_letter(one) for one in dead_letters.whole(group.newest)],
    }


def _dead_letter(dead_letter: DeadLetter) -> dict[str, Any]:
    found = json_dead_letter(dead_letter)
    del found["raw"]
    found["text"] = message_text(dead_letter)
    if len(found["message"]) > MAX_TEXT_CHARACTERS:
        found["message"] = found["message"][:MAX_TEXT_CHARACTERS] + "…"
    return found
