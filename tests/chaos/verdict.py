"""Compares what was sent with what became of it. Pure: takes the values of `ledger` and `findings`, returns violations."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from celery_partitions.store.dead_letters import DeadLetter
from tests.chaos.expiry import REMEMBERED
from tests.chaos.ledger import UNKEPT, Sent, SentAct, SentJunk, SentNote
from tests.chaos.limits import exceeded
from tests.chaos.recorder import Call, judge_calls
from tests.chaos.timers import firings, story_errors
from tests.support.history import by_key, history_errors

T = TypeVar("T")

#: The ways whose calls are recorded.
RECORDED = ("async", "threads", "shared", "slowly")
#: The reason of a dead letter whose computation raised at every attempt.
RAISED = "computation-failed"
#: The reasons of messages that killed or blocked their workers.
BLAMED = ("kills-the-worker", "stalls-the-worker")
#: How many examples a violation names.
SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What became of the messages that were sent."""

    #: Key → the numbers in its state.
    applied: Mapping[str, Sequence[int]]
    #: Numbers of the plain tasks that ran, once per run.
    notes: Sequence[int]
    dead_letters: Sequence[DeadLetter]
    #: The sum of the partitions' counters.
    processed: int
    #: The pipeline's sinks: name → (key, number) of each element, the oldest first.
    outputs: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict)
    #: Ids of the outputs, from the sink that has them.
    output_ids: Sequence[str] = ()
    #: What the recorder saw.
    calls: Sequence[Call] = ()
    #: Key → what happened to its timers.
    stories: Mapping[str, Sequence[tuple[Any, ...]]] = field(default_factory=dict)
    #: How often keys expired.
    lives: int = 0
    #: When faults began and ended, and when workers noticed any. In seconds since the epoch.
    faults: Sequence[tuple[float, float]] = ()
    #: Descriptions of what should no longer be in Redis.
    left: Sequence[str] = ()
    #: Descriptions of what workers should not have done.
    complaints: Sequence[str] = ()
    #: Descriptions of messages that waited too long.
    late: Sequence[str] = ()

    def applied_under(self, prefix: str) -> int:
        """How many messages were applied to keys with a prefix."""
        return sum(len(numbers) for key, numbers in self.applied.items() if key.startswith(prefix))


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise. `kind`: a kind of the history check, alone or after `output`, or `dead_letter`, `note`, `overlap`, `start`,
    `repeat`, `rate`, `timer`, `count`, `left`, `worker`, `late`."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def judge(sent: Sequence[Sent], found: Found, *, tries: int) -> list[Violation]:
    """All violations. `tries`: the number of attempts before a message becomes a dead letter."""
    reasons = {number_of(one): one.reason for one in found.dead_letters if one.reason in BLAMED}
    sent = [replace(one, held_up=reasons.get(one.number)) if isinstance(one, SentAct) and one.holds else one for one in sent]
    certain = what_is_in(sent, found)
    acts = [one for one in certain if isinstance(one, SentAct)]
    return [
        *_history(acts, found),
        *_outputs(acts, found),
        *_calls(acts, [one for one in sent if isinstance(one, SentAct) and may_be_lost(one)], found),
        *(Violation("rate", text) for text in exceeded(found.calls)),
        *(Violation("timer", f"key {key!r}: {text}") for key, story in found.stories.items() for text in story_errors(story)),
        *_dead_letters(certain, found.dead_letters, tries),
        *_notes(certain, sent, found.notes),
        *_count(found),
        *(Violation("left", text) for text in found.left),
        *(Violation("worker", text) for text in found.complaints),
        *(Violation("late", text) for text in found.late),
    ]


def what_is_in(sent: Iterable[Sent], found: Found) -> list[Sent]:
    """The messages that were certainly in the queues: those without doubt, and each pack of which at least one message was seen."""
    numbers = {number for applied in found.applied.values() for number in applied} | set(found.notes)
    numbers |= {number for dead_letter in found.dead_letters if (number := number_of(dead_letter)) is not None}
    raws = {raw_of(dead_letter) for dead_letter in found.dead_letters}
    sent = list(sent)
    seen = {one.pack for one in sent if (one.raw in raws if isinstance(one, SentJunk) else one.number in numbers)}
    return [one for one in sent if one.pack is None or (one.pack in seen and not (isinstance(one, SentNote) and may_be_lost(one)))]


def may_be_lost(sent: Sent) -> bool:
    """Whether a failover may lose the message, which was answered: replication is asynchronous. It may have run before. A message without this
    doubt was on a replica when its producer went on."""
    return sent.pack is not None and sent.pack.startswith(UNKEPT)


def raw_of(dead_letter: DeadLetter) -> bytes:
    return base64.b64decode(dead_letter.raw)


def number_of(dead_letter: DeadLetter) -> int | None:
    """The number of the message of a dead letter; None if no computation was started with it."""
    if dead_letter.reason not in (RAISED, *BLAMED):
        return None
    args, _, _ = json.loads(base64.b64decode(json.loads(raw_of(dead_letter))["body"]))
    return int(args[0]["number"]) if args and "number" in args[0] else None


def _history(acts: Sequence[SentAct], found: Found) -> Iterator[Violation]:
    """Each key has exactly its own messages, once, in order. Messages with an `eta` may be in any order."""
    unordered = {act.key for act in acts if not act.ordered}
    wanted = by_key((key, act.number) for act in acts for key in act.applied_to)

    def comparable(numbers: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
        return {key: sorted(row) if key in unordered else row for key, row in numbers.items()}

    for kind, text in _errors(comparable(wanted), comparable(found.applied)):
        yield Violation(kind, text)


def by_kind(errors: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for kind, error in errors:
        found.setdefault(kind, []).append(error)
    return found


def _errors(wanted: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, str]]:
    """Each kind of error, and where it occurred."""
    for kind, errors in by_kind((error.kind, error) for error in history_errors(wanted, found)).items():
        yield kind, f"at {len(errors)} of {len(wanted)} keys, first {errors[0]}"


def _outputs(acts: Sequence[SentAct], found: Found) -> Iterator[Violation]:
    """Each sink has every output once, and those of a key in the order in which they were sent."""
    for sink, elements in found.outputs.items():
        wanted = by_key((act.key, act.number) for act in acts if sink in act.sinks)
        for kind, text in _errors(wanted, by_key(elements)):
            yield Violation(f"output {kind}", f"{sink}: {text}")
    if len(set(found.output_ids)) < len(found.output_ids):
        yield Violation("output duplicate", "two outputs have the same id")


def _calls(acts: Sequence[SentAct], lost: Sequence[SentAct], found: Found) -> Iterator[Violation]:
    """What the recorder saw of the calls that wait. It saw the call of each message that was applied, and perhaps of those that were lost later."""
    wanted = by_key((act.key, act.number) for act in dict.fromkeys((*acts, *lost)))
    given_up = {number for dead_letter in found.dead_letters if (number := number_of(dead_letter)) is not None}
    for kind, errors in by_kind(judge_calls(found.calls, wanted, given_up, found.faults)).items():
        yield Violation(kind, f"{len(errors)} times, first {errors[0]}")
    ended = {call.number for call in found.calls if call.ended is not None}
    unseen = {act.number for act in acts if act.way in RECORDED and not act.dies_of} - ended
    if unseen:
        yield Violation("start", f"{len(unseen)} messages were applied, and their calls were not seen: {sorted(unseen)[:SHOWN]}")


def _dead_letters(certain: Sequence[Sent], dead_letters: Sequence[DeadLetter], tries: int) -> Iterator[Violation]:
    """Each message that is malformed, always raises or kills its worker has exactly one dead letter. There are no others."""
    junk = {one.raw: one.reason for one in certain if isinstance(one, SentJunk)}
    doomed = {one.number: one.dies_of for one in certain if isinstance(one, SentAct) and one.dies_of}
    died: Counter[int] = Counter()
    refused: Counter[bytes] = Counter()
    for dead_letter in dead_letters:
        raw, number = raw_of(dead_letter), number_of(dead_letter)
        if raw in junk:
            refused[raw] += 1
            if dead_letter.reason != junk[raw]:
                yield Violation("dead_letter", f"{raw!r:.80} has the reason {dead_letter.reason} instead of {junk[raw]}")
        elif number is not None and doomed.get(number) == dead_letter.reason:
            died[number] += 1
            if dead_letter.reason == RAISED and dead_letter.attempts != tries:
                yield Violation("dead_letter", f"{number} became a dead letter after {dead_letter.attempts} attempts instead of {tries}")
        else:
            yield Violation("dead_letter", f"{dead_letter.id} should not be a dead letter: {dead_letter.reason}, {dead_letter.error}: {raw!r:.200}")
    yield from _once("dead_letter", "malformed messages", junk, refused)
    yield from _once("dead_letter", "messages that always raise or kill their worker", doomed, died)


def _once(kind: str, what: str, wanted: Iterable[int | bytes], counted: Counter[int] | Counter[bytes]) -> Iterator[Violation]:
    missing = [one for one in wanted if one not in counted]
    if missing:
        yield Violation(kind, f"{len(missing)} {what} have no dead letter: {missing[:SHOWN]!r}")
    doubled = [one for one, times in counted.items() if times > 1]
    if doubled:
        yield Violation(kind, f"{len(doubled)} {what} have more than one dead letter: {doubled[:SHOWN]!r}")


def _notes(certain: Sequence[Sent], sent: Sequence[Sent], ran: Sequence[int]) -> Iterator[Violation]:
    """Each plain task ran at least once."""
    never = {one.number for one in certain if isinstance(one, SentNote)} - set(ran)
    if never:
        yield Violation("note", f"{len(never)} plain tasks never ran: {sorted(never)[:SHOWN]}")
    unknown = set(ran) - {one.number for one in sent if isinstance(one, SentNote)}
    if unknown:
        yield Violation("note", f"plain tasks ran that were not sent: {sorted(unknown)[:SHOWN]}")


def _count(found: Found) -> Iterator[Violation]:
    """Messages in the states, firings of timers, and the end of each life with its will. Firings that found nothing to do leave no trace; there
    are at most two for each message of a key with timers."""
    planned, remembered = sum(map(len, found.stories.values())), found.applied_under(REMEMBERED)
    applied = sum(map(len, found.applied.values())) + sum(map(firings, found.stories.values())) + 2 * found.lives
    most = applied + 2 * (planned + remembered)
    if not applied <= found.processed <= most:
        yield Violation("count", f"{found.processed} counted as processed, but {applied} to {most} are in the states")
