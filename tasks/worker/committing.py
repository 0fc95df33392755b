"""From a step's outcome to the commit that writes it, and to what will be true of its lane once it is written. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.model.step import Outcome
from tasks.store.commits import Commit, CommitUnderWay, Parked, commands_of, keep_parked, unpark
from tasks.store.names import Names
from tasks.worker.lane import Batch, Lane


@dataclass(frozen=True, slots=True)
class PlannedCommit:
    """A commit, and how the lane's parked keys stand after it."""

    commit: Commit
    parked: dict[str, Parked]
    #: The key whose mailbox it empties.
    ended: str | None


@dataclass(slots=True)
class UnderWay:
    """A commit that was sent, and what it means for its lane once it is written."""

    lane: Lane
    outcome: Outcome
    planned: PlannedCommit
    sent: CommitUnderWay | None


def plan_commit(names: Names, lane: Lane, batch: Batch, outcome: Outcome, most: int) -> PlannedCommit | None:
    """The commit of an outcome, asking for at most `most` messages next; None when there is nothing to write."""
    now = lane.server_now()
    commands = commands_of(outcome, names, lane.unit, lane.position, now)
    parked = {
        key: Parked(now + delay, failure.attempt + 1, failure.error) for key, (failure, delay) in outcome.parked.items()
    }
    ended = None
    key = batch.mailbox_of
    if key is not None and key not in parked:
        if outcome.taken >= batch.length:
            ended = key
            commands.append(unpark(names, lane.unit, key))
        elif outcome.taken:
            parked[key] = Parked(now, 1)
            commands.append(keep_parked(names, lane.unit, key, now))
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
        ask=lane.ask_after(len(taken), len(batch.messages), most),
    )
    return PlannedCommit(commit, parked, ended)
