"""What the commands and the pages say in the same words: results of actions, and why nothing was done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery_partitions.admin.dead_letters import DeadLetterPlace, DeadLetters
from celery_partitions.admin.parked_keys import Answer
from celery_partitions.admin.state_editor import SeenState
from celery_partitions.store.dead_letters import DeadLetter


def retry_dead_letters(
    store: DeadLetters, dead_letters: Sequence[DeadLetter | DeadLetterPlace], query: Mapping[str, Any], *, by: str
) -> tuple[dict[str, Any], str]:
    """Retry dead letters. Returns the result as facts for scripts and as a sentence. `query`: how they were chosen."""
    progress = store.retries.begin(len(dead_letters), query, by=by) if dead_letters else None
    in_place = store.retry([dead_letter for dead_letter in dead_letters if dead_letter.in_place], by=by, progress=progress)
    at_the_end = store.retry([dead_letter for dead_letter in dead_letters if not dead_letter.in_place], by=by, progress=progress)
    if progress is not None:
        progress.end()
    parts = [f"{in_place:,} will be retried in place"] if in_place else []
    if at_the_end or not in_place:
        parts.append(f"{at_the_end:,} put back at the end of their queues")
    return {"retried": in_place + at_the_end, "in_place": in_place, "at_the_end": at_the_end}, "; ".join(parts)


_REFUSALS: dict[Answer, str] = {
    "not-parked": "is no longer parked; nothing was done",
    "running": "is running: the call of its first message is in flight; nothing was done",
    "not-failed": "waits with a message that has not failed yet; nothing was done",
    "batch": "waits with a batch that failed as a whole; its workers find the message at fault after its last retry. Nothing was done",
    "changed": "changed meanwhile; nothing was done. Look at it again, then try again",
}


def refusal(answer: Answer, key: str = "") -> str:
    """Why an action on a parked key was not done. `key`: as it is shown."""
    return f"the key{f' {key!r}' if key else ''} {_REFUSALS[answer]}"


def state_changed(seen: SeenState, key: str = "") -> str:
    """Why a state was not written: a worker was faster."""
    return f"the state{f' of {key!r}' if key else ''} changed meanwhile; nothing was done. Try again, or pause partition {seen.partition} first"
