"""From a step's outcome to the commit that writes it, and to what will be true of its lane once it is written. Nothing is sent here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery_partitions.model.duplicates import ids_to_remember
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.reading import Item
from celery_partitions.store.commits import Commit, CommitUnderWay, commands_of
from celery_partitions.store.names import Names
from celery_partitions.store.outputs import split
from celery_partitions.store.parking import Parked, park, unpark
from celery_partitions.store.seen import remember
from celery_partitions.worker.lane import Batch, Lane


@dataclass(frozen=True, slots=True)
class PlannedCommit:
    """A commit, and how the lane's parked keys stand after it."""

    commit: Commit
    parked: dict[str, Parked]
    #: The key whose mailbox it empties.
    ended: str | None
    #: Messages of it that were tried again.
    retried: int = 0


@dataclass(slots=True)
class UnderWay:
    """A commit that was sent, and what it means for its lane once it is written."""

    lane: Lane
    batch: Batch
    outcome: Outcome
    planned: PlannedCommit
    sent: CommitUnderWay | None


def plan_commit(
    names: Names, lane: Lane, batch: Batch, items: Sequence[Item], outcome: Outcome, *, most: int, most_ids: int
) -> PlannedCommit | None:
    """The commit of an outcome, asking for at most `most` messages next; None when there is nothing to write.

    `most_ids`: message ids that may be remembered for one computation.
    """
    now = lane.server_now()
    parked = _parked_after(lane, batch, outcome, now)
    commands = commands_of(outcome, names, lane.unit, lane.position, now, parked)
    if lane.seen and outcome.taken:
        fresh = ids_to_remember(items[: outcome.taken], {broken.raw for broken, _ in outcome.dead})
        commands += remember(names, lane.unit, lane.seen, fresh, now, most_ids)
    commands += _notes_of_suspects(names, lane, batch, outcome)
    ended = None
    key = batch.mailbox_of
    if key is not None and outcome.taken:
        letter = lane.parked[key].letter
        if letter is not None:  # the message that it tells of has left its place
            commands.append(["HDEL", names.dead(lane.unit), letter])
        if key not in parked and outcome.taken >= batch.length:
            ended = key
            commands.append(unpark(names, lane.unit, key))
        elif key not in parked:  # the next message was not tried yet: due at once
            parked[key] = Parked(now, 1)
            commands.append(park(names, lane.unit, key, parked[key]))
    elif key is not None and key not in parked and batch.length == 0:
        ended = key
        commands.append(unpark(names, lane.unit, key))
    if not commands and not outcome.taken:
        return None
    taken = batch.messages[: outcome.taken]
    commit = Commit(
        lease=lane.lease,
        position=lane.position,
        revision=lane.revision,
        mailbox_of=key,
        taken=len(taken),
        oldest=taken[0] if taken else b"",
        youngest=taken[-1] if taken else b"",
        commands=commands,
        ask=1 if batch.alone and lane.suspect > 1 else lane.ask_after(len(taken), len(batch.messages), most),
    )
    return PlannedCommit(commit, parked, ended, retried=int(key is not None and batch.attempt > 1))


def _parked_after(lane: Lane, batch: Batch, outcome: Outcome, now: float) -> dict[str, Parked]:
    """What Redis is to say of the keys that the outcome parks, or keeps parked."""
    parked = {}
    for number, (key, (failure, seconds, used_up)) in enumerate(outcome.parked.items()):
        failed_again = key == batch.mailbox_of and outcome.taken == 0
        before = lane.parked[key] if failed_again else None
        letter = None if before is None else before.letter
        headers = failure.item.envelope.headers
        parked[key] = Parked(
            due=None if seconds is None else now + seconds,
            attempt=failure.attempt + 1,
            error=failure.error,
            trace=failure.trace,
            letter=f"{lane.unit}-{lane.position}-p{number}" if used_up and letter is None else letter,
            message_id=headers.id,
            task=headers.task,
            since=now if before is None else before.since,
        )
    return parked


def _notes_of_suspects(names: Names, lane: Lane, batch: Batch, outcome: Outcome) -> list[list[Any]]:
    """While messages are noted before they run: their notes go, and fewer are left."""
    if not batch.noted:
        return []
    commands = list(split(["HDEL", names.tries(lane.unit)], batch.noted))
    if batch.mailbox_of is None and outcome.taken:
        left = lane.suspect - outcome.taken
        facts = names.facts(lane.unit)
        commands.append(["HSET", facts, "suspect", left] if left > 0 else ["HDEL", facts, "suspect"])
    return commands
