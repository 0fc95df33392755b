"""A queue, mailboxes and stored states as plain dicts, a worker's turns around the pure step, and the plain fold.

Messages say what their computation does. A message that always fails must become a dead letter. One that succeeds at its
second attempt must count once. All others must be in the state in queue order: `expected` computes this without the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from celery_partitions.model.outcome import Outcome, Slot, Unreadable
from celery_partitions.model.own_lines import is_own_line
from celery_partitions.model.step import step
from tests.model.build import CODEC, read, rules, slots_for
from tests.model.counting import ALONE, LOG, SECOND, STATELESS, WITH_CONTEXT

COMPUTATIONS = {each.name: each for each in (LOG, SECOND, WITH_CONTEXT, ALONE, STATELESS)}
#: Raises or damages the state at every attempt.
HOPELESS = {"raise", "exit", "without text", "unpicklable"}


@dataclass(frozen=True)
class Planned:
    """One message of a plan."""

    n: int
    computation: str
    key: str
    do: str

    def counts(self, retries: int) -> bool:
        """Whether it must be in the state at the end."""
        if self.do == "flaky" and self.computation in (WITH_CONTEXT.name, ALONE.name):
            return retries > 0
        if self.computation == STATELESS.name:
            return self.do != "raise"
        return self.do not in HOPELESS


def expected(plan: list[Planned], retries: int) -> dict[tuple[str, str], list[int]]:
    """The fold: the numbers of each computation and key, in queue order."""
    logs: dict[tuple[str, str], list[int]] = {}
    for planned in plan:
        if planned.counts(retries):
            logs.setdefault((planned.computation, planned.key), []).append(planned.n)
    return logs


@dataclass
class World:
    """What Redis would contain. `_commit` writes an outcome as the commit script is documented to."""

    queue: list[bytes]
    retries: int
    keeps_states: bool
    inline: bool = True
    mailboxes: dict[str, list[bytes]] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    stored: dict[str, dict[str, bytes]] = field(default_factory=dict)
    dead: list[bytes] = field(default_factory=list)
    done: list[bytes] = field(default_factory=list)
    memory: dict[str, dict[str, Slot | Unreadable]] = field(default_factory=dict)

    def turn(self, limit: int, ticks: int, *, lost: bool = False) -> None:
        """Run one batch of the queue. With `lost` the commit is refused and must leave nothing behind."""
        source = self.queue[:limit]
        outcome = self._step(source, ticks)
        if lost:
            self.memory.clear()
            return
        assert outcome.taken >= min(1, len(source))
        del self.queue[: outcome.taken]
        self._commit(outcome)

    def retry(self, key: str, limit: int, ticks: int) -> None:
        """Run one batch of a parked key's mailbox."""
        outcome = self._step(
            self.mailboxes[key][:limit], ticks, mailbox_of=key, attempt=self.attempts[key]
        )
        assert key not in outcome.mailed, "it waits in its own line"
        del self.mailboxes[key][: outcome.taken]
        self.attempts[key] = 1
        self._commit(outcome)
        if not self.mailboxes[key]:
            del self.mailboxes[key], self.attempts[key]

    def _step(self, raws: list[bytes], ticks: int, **how: Any) -> Outcome:
        items = read(list(COMPUTATIONS.values()), raws)
        slots = slots_for(items, self.stored)
        if self.keeps_states:
            for name, table in slots.items():
                table.update({key: slot for key, slot in self.memory.get(name, {}).items() if key in table})
                self.memory.setdefault(name, {}).update(table)
        clock = iter(range(1_000_000))
        by = replace(rules(retries=self.retries, clock=lambda: float(next(clock)), seconds=float(ticks)), inline=self.inline)
        own_lines = set(filter(is_own_line, self.mailboxes))
        return step(items, slots, by, parked=self.mailboxes, own_lines=own_lines, **how)

    def _commit(self, outcome: Outcome) -> None:
        for name, changed in outcome.states.items():
            self.stored.setdefault(name, {}).update(changed)
            for key, after in changed.items():
                slot = self.memory.get(name, {}).get(key)
                if isinstance(slot, Slot):
                    slot.stored = after
        for key, raws in outcome.mailed.items():
            self.attempts.setdefault(key, 1)
            self.mailboxes.setdefault(key, []).extend(raws)
        for key, (failure, _, _) in outcome.parked.items():
            self.attempts[key] = failure.attempt + 1
        self.dead += [broken.raw for broken, _ in outcome.dead]
        self.done += [work.raw for work in outcome.done]

    def logs(self) -> dict[tuple[str, str], list[Any]]:
        """The stored states, decoded."""
        return {
            (name, key): CODEC.load(COMPUTATIONS[name], key, stored).entries
            for name, table in self.stored.items()
            for key, stored in table.items()
        }

    def waiting(self) -> int:
        return len(self.queue) + sum(map(len, self.mailboxes.values()))
