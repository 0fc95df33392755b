"""Plans the commit of a step's outcome, and how it changes the owned partition once it is written. Sends nothing."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from celery_partitions.model.deduplication import ids_to_remember
from celery_partitions.model.effects import (
    READY,
    RUNNING,
    CountRunning,
    DropDeadLetter,
    Effect,
    EndIsolation,
    FollowUp,
    ParkedKey,
    PutParkedKey,
    TakeFromMailbox,
    Unpark,
)
from celery_partitions.model.fairness import EARLY_SECONDS
from celery_partitions.model.items import Item, Work
from celery_partitions.model.outcome import Outcome, Waiting
from celery_partitions.store.commands import commands_of
from celery_partitions.store.commits import Commit, SentCommit
from celery_partitions.store.deduplication import remember
from celery_partitions.store.names import Names
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.owned import MIN_ASKED, OwnedPartition
from celery_partitions.worker.retries import Retry
from celery_partitions.worker.timelines import Timelines

if TYPE_CHECKING:
    from celery_partitions.worker.in_flight_commit import PlannedCalls
    from celery_partitions_config.settings import Settings


#: After a hot key's turn the queue is read again, unless this many of its messages are in memory.
MANY_KNOWN = 100


@dataclass(frozen=True, slots=True)
class PlannedCommit:
    """A commit, and the partition's parked keys after it."""

    commit: Commit
    parked: dict[str, ParkedKey]
    #: Keys whose mailboxes the commit empties.
    ended: Sequence[str] = ()
    #: How many of its messages were retries.
    retried: int = 0
    #: How many messages it takes from the mailboxes of keys that the loop has retried.
    taken_of: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class PendingCommit:
    """A commit that was sent, with what is needed to update its partition once it is written."""

    owned: OwnedPartition
    batch: Batch
    outcome: Outcome
    planned: PlannedCommit
    #: None: it must be sent again, or was, because sending it failed or its answer was lost.
    sent: SentCommit | None
    #: When it was sent, by the loop's clock.
    began: float
    #: What the commit holds of calls outside the loop.
    calls: PlannedCalls | None = None


def plan_commit(
    names: Names,
    owned: OwnedPartition,
    batch: Batch,
    items: Sequence[Item],
    outcome: Outcome,
    settings: Settings,
    timelines: Timelines | None = None,
    retries: Sequence[Retry] = (),
) -> PlannedCommit | None:
    """The commit of an outcome, which also asks for the next messages; None if there is nothing to write. `timelines`: add to them what
    changes. `retries`: what the outcome consists of, if several parked keys were retried."""
    now, key = owned.server_now(), batch.mailbox_of
    are_several = bool(retries)
    if key is not None and not are_several:
        retries = [Retry(batch, items, outcome)]
    again = {retry.key for retry in retries if retry.outcome.taken == 0}
    parked = _parked_after(owned, again, outcome, now) | _waiting_after(owned, again, outcome, now, settings.deploy_wait_seconds)
    effects: list[Effect] = []
    if are_several:
        effects += [TakeFromMailbox(one.key, one.batch.messages[: one.outcome.taken]) for one in retries if one.outcome.taken]
    effects += outcome.written(owned.partition, owned.commit_number, parked)
    if owned.seen and outcome.taken:
        fresh = ids_to_remember(items[: outcome.taken], {dead_letter_item.raw for dead_letter_item, _ in outcome.dead})
        effects += remember(owned.seen, fresh, now, settings.deduplicate_ids)
    if batch.noted:
        is_of_queue = batch.mailbox_of is None and outcome.taken > 0
        effects.append(EndIsolation(batch.noted, owned.to_isolate - outcome.taken if is_of_queue else None))
    ended = []
    for retry in retries:
        before = owned.parked[retry.key]
        if retry.outcome.taken and before.dead_letter is not None:  # its message is no longer in the mailbox
            effects.append(DropDeadLetter(before.dead_letter))
        if retry.key in parked:
            continue
        if retry.outcome.taken >= retry.batch.length:
            ended.append(retry.key)
            effects.append(Unpark(retry.key))
        elif retry.outcome.taken:
            parked[retry.key] = _next_of(retry, before, now)
            effects.append(PutParkedKey(retry.key, parked[retry.key]))
    count = count_in_turn(owned, parked, ended)
    if count is not None:
        effects.append(CountRunning(count))
    if timelines is not None and (added := timelines.effect(owned, outcome, parked, {})) is not None:
        effects.append(added)
    ask = _ask(owned, batch, outcome, settings.batch_messages)
    retried, taken_of = sum(retry.batch.attempt > 1 for retry in retries), {retry.key: retry.outcome.taken for retry in retries}
    if are_several:
        commit = commit_of(names, owned, effects, (), now, ask=ask)
    else:
        commit = commit_of(names, owned, effects, batch.messages[: outcome.taken], now, mailbox_of=key, ask=ask)
    if not commit.commands and not commit.taken:
        return None
    return PlannedCommit(commit, parked, ended, retried, taken_of)


def commit_of(
    names: Names, owned: OwnedPartition, effects: Iterable[Effect], taken: Sequence[bytes], now: float, *, mailbox_of: str | None = None, ask: int
) -> Commit:
    """The commit of effects. `taken`: the messages that leave the queue, or the mailbox of the key `mailbox_of`, oldest first. `now`: the
    server's time. `ask`: how many next messages it asks for."""
    commands = commands_of(effects, names, owned.partition, owned.commit_number, now)
    if owned.outbox is not None:
        commands = owned.outbox.pack(commands)
    return Commit(
        lease=owned.lease,
        commit_number=owned.commit_number,
        edit_version=owned.edit_version,
        mailbox_of=mailbox_of,
        taken=len(taken),
        oldest=taken[0] if taken else b"",
        youngest=taken[-1] if taken else b"",
        commands=commands,
        ask=ask,
        sends=owned.outbox is not None and owned.outbox.is_packed,
    )


def _next_of(retry: Retry, before: ParkedKey, now: float) -> ParkedKey:
    """The record of a key whose next message was not tried yet: it is due immediately. `before`: its record so far."""
    about = _about(retry.items[retry.outcome.taken :])
    if retry.batch.waited_out and retry.outcome.dead:
        return ParkedKey(now, 1, since=before.since, reason=before.reason)
    if before.reason == READY:
        return replace(before, due=now - EARLY_SECONDS, **about)
    if before.waits_its_turn:  # nothing has failed, so the mailbox still has no limit
        reason = before.reason if before.reason == "gather" else RUNNING
        return replace(ParkedKey(now, 1, since=before.since), reason=reason, **about)
    return replace(ParkedKey(now, 1), **about)


def _about(rest: Sequence[Item]) -> dict[str, str | None]:
    """The fields of a parked key's record that are about its first message."""
    headers = rest[0].envelope.headers if rest and isinstance(rest[0], Work) else None
    return {"task": None, "message_id": None} if headers is None else {"task": headers.task, "message_id": headers.id}


def _ask(owned: OwnedPartition, batch: Batch, outcome: Outcome, limit: int) -> int:
    """How many messages of the queue the commit asks for; 0 if those in memory come next."""
    gone = outcome.taken if batch.mailbox_of is None else 0
    are_next = not owned.to_isolate and not any(isinstance(one, FollowUp) for one in outcome.effects)
    if batch.ready and len(owned.messages) < MANY_KNOWN:
        return limit  # also what came during the hot key's turn
    return 0 if are_next and len(owned.messages) > gone else ask_after(owned, batch, outcome.taken, limit)


def ask_after(owned: OwnedPartition, batch: Batch, taken: int, limit: int) -> int:
    """How many messages to ask for after this many of the batch were taken. Messages that do not run next would be read again."""
    if batch.next_group is not None and owned.to_isolate > taken:
        return min(batch.next_group, limit)
    # After a batch that ended early (slow computations, a plain task) fewer.
    return limit if taken >= len(batch.messages) else max(MIN_ASKED, min(limit, taken * 2))


def count_in_turn(owned: OwnedPartition, parked: Mapping[str, ParkedKey], unparked: Iterable[str]) -> int | None:
    """How many parked keys wait only for their turn after a commit that parks and unparks these. None: none did, and none will."""
    if not owned.in_turn and not any(record.waits_its_turn for record in parked.values()):
        return None
    after = owned.in_turn.difference(unparked, parked)
    return len(after) + sum(record.waits_its_turn for record in parked.values())


def _parked_after(owned: OwnedPartition, again: Container[str], outcome: Outcome, now: float) -> dict[str, ParkedKey]:
    """The records of the keys that the outcome parks or keeps parked. `again`: the retried ones of which no message was taken."""
    parked = {}
    for number, (key, (failure, seconds, used_up)) in enumerate(outcome.parked.items()):
        before = owned.parked[key] if key in again else None
        dead_letter = None if before is None else before.dead_letter
        headers = failure.item.envelope.headers
        parked[key] = ParkedKey(
            due=None if seconds is None else now + seconds,
            attempt=failure.attempt + 1,
            error=failure.error,
            trace=failure.trace,
            dead_letter=f"{owned.partition}-{owned.commit_number}-p{number}" if used_up and dead_letter is None else dead_letter,
            message_id=headers.id,
            task=headers.task,
            since=now if before is None or before.waits_its_turn else before.since,
            size=failure.halving.size,
            suspects=failure.halving.suspects,
        )
    return parked


def _waiting_after(
    owned: OwnedPartition, again: Container[str], outcome: Outcome, now: float, wait_seconds: float
) -> dict[str, ParkedKey]:
    """The records of keys and lines that wait for a task, a state or their turn."""
    return {
        key: one.parked(owned.parked[key] if key in again else gather_of(owned, key, one), now, wait_seconds)
        for key, one in outcome.waiting.items()
    }


def gather_of(owned: OwnedPartition, key: str, waiting: Waiting) -> ParkedKey | None:
    """The record of a gather that goes on, because messages of the queue have joined it."""
    before = owned.parked.get(key) if waiting.reason == "gather" else None
    return before if before is not None and before.reason == "gather" else None
