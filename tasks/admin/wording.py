"""Actions whose result the commands and the pages report in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery_partitions.admin.dead_letters import DeadLetterPlace, DeadLetters
from celery_partitions.store.dead_letters import DeadLetter


def retry_dead_letters(store: DeadLetters, dead_letters: Sequence[DeadLetter | DeadLetterPlace], *, by: str) -> tuple[dict[str, Any], str]:
    """Retry dead letters. Returns the result as facts for scripts and as a sentence."""
    in_place = store.retry([dead_letter for dead_letter in dead_letters if dead_letter.in_place], by=by)
    at_the_end = store.retry([dead_letter for dead_letter in dead_letters if not dead_letter.in_place], by=by)
    parts = [f"{in_place:,} will be retried in place"] if in_place else []
    if at_the_end or not in_place:
        parts.append(f"{at_the_end:,} put back at the end of their queues")
    return {"retried": in_place + at_the_end, "in_place": in_place, "at_the_end": at_the_end}, "; ".join(parts)
