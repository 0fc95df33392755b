"""Where messages wait that a step does not apply: in the mailbox of their key, of an own line, or of a task's line."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from typing import Literal

from celery_partitions.model.effects import READY, RUNNING, TURN_REASONS, ParkedKey
from celery_partitions.model.fairness import EARLY_SECONDS, hot_keys
from celery_partitions.model.halving import NOT_HALVED, Halving
from celery_partitions.model.items import DeadLetterItem, Item, Misrouted, PlainTask, UnknownTask, Work
from celery_partitions.model.messages import name_of
from celery_partitions.model.outcome import Outcome, Waiting
from celery_partitions.model.own_lines import is_own_line, own_line
from celery_partitions.model.step_rules import StepRules
from celery_partitions.model.task_lines import line_of_task

#: The longest time until a waiting key or line is tried again: a deploy that ends is noticed within this.
LONGEST_WAIT_SECONDS = 60.0


class _Either:
    """A key that is in one of two containers."""

    def __init__(self, one: Container[str], other: Container[str]) -> None:
        self.one, self.other = one, other

    def __contains__(self, key: object) -> bool:
        return key in self.one or key in self.other


class Mailboxes:
    """Where the messages of one step wait, as far as the step has come. Its constructor takes the words of `StepMachine`; `out` is the step's
    outcome so far."""

    def __init__(
        self,
        out: Outcome,
        rules: StepRules,
        *,
        parked: Container[str],
        mailbox_lengths: Mapping[str, int],
        own_lines: Collection[str],
        mailbox_of: str | None,
        attempt: int,
        line: str | None,
        waited_out: bool,
    ) -> None:
        self.out, self.rules = out, rules
        self.line, self.waited_out = line, waited_out
        self.mailbox_lengths = mailbox_lengths
        self.parked, self.mailbox_of, self.first_attempt = parked, mailbox_of, attempt
        #: With those that this step parks. The one whose mailbox the items come from does not count.
        self.own_lines = set(own_lines)
        self.own_lines.discard(mailbox_of or "")
        self.known: Mapping[str, object] = parked if isinstance(parked, Mapping) else {}

    @property
    def attempt(self) -> int:
        """The number of the current message's try. Only the first message of a mailbox was tried before."""
        return self.first_attempt if self.mailbox_of is not None and self.out.taken == 0 else 1

    def wait_for_task(self, item: UnknownTask) -> bool:
        """Let a message wait in the mailbox of its key or line. Returns False to end the step before it, because it is there already."""
        out, here = self.out, self.mailbox_of if self.line is None else self.line
        if self.waited_out:
            out.dead.append((DeadLetterItem(item.raw, "unknown-task", item.error, "", item.task, item.message_id, item.key), 0))
        elif here is not None:
            if self.line is not None or not out.taken:  # else the messages before it are committed first
                out.waiting[here] = self.waiting("unknown-task", item.error, item.task, item.message_id, self.first_attempt)
            return False
        elif self.has_room(item.line):
            if item.line not in self.parked and item.line not in out.parked:
                first = self.waiting("unknown-task", item.error, item.task, item.message_id, 1)
                out.waiting.setdefault(item.line, first)
                if item.key is not None:
                    self.count_waiting()
            out.mailed.setdefault(item.line, []).append(item.raw)
        else:
            error = f"{item.error}; and {self.rules.mailbox_messages} of its messages wait already (PARTITIONS_MAILBOX_MESSAGES)"
            out.dead.append((DeadLetterItem(item.raw, "unknown-task", error, "", item.task, item.message_id, item.key), 0))
        return True

    def wait_for_state(self, item: Work, error: str) -> bool:
        """Let a key wait whose state can't be read. Returns False to end the step before the message."""
        if (self.waited_out and self.line is None) or not self.rules.unreadable_waits:
            self.add_dead_letter(item, "unreadable-state", error, "", 1)
            return True
        headers = item.envelope.headers
        place = self.place_of(item)
        if place == self.mailbox_of and self.out.taken:
            return False  # the messages before it are committed first
        self.out.waiting[place] = self.waiting("unreadable-state", error, headers.task, headers.id, self.attempt)
        self.count_waiting()
        return place != self.mailbox_of and self.mail(item, place)

    def wait_for_turn(
        self, works: Sequence[Work], reason: Literal["rate", "gather"], seconds: float, halving: Halving = NOT_HALVED, due: float | None = None
    ) -> bool:
        """Let a key wait for `seconds`, or until `due`. `works`: its next messages, of one computation. Returns False to end the step before them, because
        they are in the mailbox already."""
        headers = works[0].envelope.headers
        place = self.place_of(works[0])
        attempt = self.attempt if reason == "rate" else 1
        self.out.waiting[place] = Waiting(reason, "", headers.task, headers.id, attempt, seconds, halving, due)
        if place == self.mailbox_of:
            return False
        self.count_waiting()
        for work in works:
            self.mail(work, place)
        return True

    def end_gather(self, item: Work, place: str) -> None:
        """A message was put into a mailbox. If a gather waits there that is full now, or that it can't join, the call is due now."""
        one = self.out.waiting.get(place) or self.known.get(place)
        if not isinstance(one, Waiting | ParkedKey) or one.reason != "gather":
            return
        if one.seconds == 0.0 if isinstance(one, Waiting) else (one.due or 0.0) <= self.rules.now:
            return
        flush, count = item.computation.flush, len(self.out.mailed[place]) + self.mailbox_lengths.get(place, 0)
        if flush is None or item.computation.name != one.task or count >= flush.every:
            self.out.waiting[place] = Waiting("gather", "", one.task, one.message_id, 1, 0.0)

    def share(self, rest: Sequence[Item], now: float, gathered: Container[str]) -> bool:
        """From now on, let hot keys wait for their turn, if the rest of the batch would take long. Returns whether there are any. `gathered`: keys
        with messages that were met and not called yet."""
        out = self.out
        hot = hot_keys(rest, out.done, out.began, now, _Either(_Either(self.parked, out.parked), gathered))
        for key, first in hot.items():
            out.waiting[key] = Waiting(READY, "", first.envelope.headers.task, first.envelope.headers.id, 1, -EARLY_SECONDS)
        if hot:
            self.count_waiting()
        return bool(hot)

    def waiting(self, reason: Literal["unknown-task", "unreadable-state"], error: str, task: str | None, message_id: str | None, attempt: int) -> Waiting:
        seconds = min(LONGEST_WAIT_SECONDS, 2.0 ** min(attempt - 1, 64)) * (0.9 + 0.2 * self.rules.random())
        return Waiting(reason, error, task, message_id, attempt, seconds)

    def count_waiting(self) -> None:
        """From now on, keys that wait since this step count as parked."""
        if not isinstance(self.parked, _Either):
            self.parked = _Either(self.out.waiting, self.parked)

    def place_of(self, item: Work) -> str:
        """Where a message waits that was tried now: in its key's mailbox, or in an own line. An own line is noted as parked."""
        place = item.key if self.mailbox_of is None else self.mailbox_of  # the key extractor may have changed since the message was parked
        if item.computation.holds == "computation" and not is_own_line(place):
            place = own_line(item.key, item.computation.line)
            self.own_lines.add(place)
        return place

    def mail(self, item: Work, place: str) -> bool:
        """Put a message of a parked key or own line into the mailbox. If the mailbox is full, make a dead letter, or pause the partition before the
        message and return False. That of a hot key makes the queue wait instead: nothing has gone wrong."""
        if self.has_room(place):
            self.out.mailed.setdefault(place, []).append(item.raw)
            self.end_gather(item, place)
            return True
        limit = self.rules.mailbox_messages
        if self.turn_of(place) is not None:
            return False
        if self.rules.policy_of(item.computation).exhausted == "stop":
            self.out.pause = True
            return False
        error = f"the mailbox of the parked key {item.key!r} is full: {limit} messages (PARTITIONS_MAILBOX_MESSAGES)"
        self.add_dead_letter(item, "mailbox-full", error, "", 0)
        return True

    def has_room(self, key: str) -> bool:
        """Whether one more message may wait for a key. A mailbox that waits only for its turn has no limit, except that of a hot key, which
        must not grow where a queue may not."""
        turn = self.turn_of(key)
        if turn is not None and turn != READY:
            return True
        limit = self.rules.mailbox_messages if turn is None else self.rules.queue_messages
        return len(self.out.mailed.get(key, ())) + self.mailbox_lengths.get(key, 0) < limit

    def turn_of(self, key: str) -> str | None:
        """Why a key waits for its turn. None: it does not, or for another reason."""
        one = self.out.waiting.get(key) or self.known.get(key)
        return one.reason if isinstance(one, Waiting | ParkedKey) and one.reason in (*TURN_REASONS, RUNNING) else None

    def add_dead_letter(self, item: Work, reason: str, error: str, trace: str, attempts: int) -> None:
        headers = item.envelope.headers
        self.out.dead.append((DeadLetterItem(item.raw, reason, error, trace, headers.task, headers.id, item.key), attempts))


def waits_in(item: Item, place: str) -> Iterator[str]:
    """The keys and lines in whose mailboxes a message may have to wait. `place`: the partition, as in the names of lines."""
    match item:
        case Work():
            yield item.key
            for name in item.computation.lines:
                yield own_line(item.key, name)
            yield line_of_task(item.envelope.headers.task, place)
        case PlainTask():
            yield line_of_task(item.headers.task, place)
        case Misrouted():
            yield line_of_task(name_of(item.raw)[0] or "", place)
        case UnknownTask():
            yield item.line


def behind_lines(items: Sequence[Item], lines: Container[str], place: str) -> list[Item]:
    """The items of a queue, with those that must wait behind earlier messages of their task, which has become known meanwhile.

    `lines`: the lines in which messages wait. `place`: the partition, as in the names of lines.
    """
    return [_behind_line(item, lines, place) for item in items]


def _behind_line(item: Item, lines: Container[str], place: str) -> Item:
    match item:
        case Work():
            task = item.envelope.headers.task
        case PlainTask():
            task = item.headers.task
        case Misrouted():
            task = name_of(item.raw)[0] or ""
        case _:
            return item
    line = line_of_task(task, place)
    return UnknownTask(item.raw, line, "earlier messages of this task wait", *name_of(item.raw)) if line in lines else item
