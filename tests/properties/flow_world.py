"""For pipelines: partitions as plain lists and dicts, and a worker's turns around the pure step.

What a commit writes comes from the Redis commands that the store makes from an outcome's outputs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import Delivery, Hop
from celery_partitions.model.items import Reading, Work, read_batch
from celery_partitions.model.message_writer import MessageWriter
from celery_partitions.model.outcome import Outcome, Slot, Unreadable
from celery_partitions.model.policy import RetryPolicy
from celery_partitions.model.step import step
from celery_partitions.model.step_rules import StepRules
from celery_partitions.model.topology import Topology
from celery_partitions.pipeline.builder import Built
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.commands import commands_of_outputs
from celery_partitions.store.names import Names
from tests.model.build import raw_message

NAMES = Names("partition")
CODEC = StateCodec((b"a key of the test's",), ("tests.properties.flows",))


@dataclass
class Partition:
    """One partition: its data in Redis, and its worker's memory."""

    number: int
    queue: list[bytes] = field(default_factory=list)
    mailboxes: dict[str, list[bytes]] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    stored: dict[str, dict[str, bytes]] = field(default_factory=dict)
    memory: dict[str, dict[str, Slot | Unreadable]] = field(default_factory=dict)
    #: Everything that ever arrived, in order, and everything that was sent.
    arrived: list[bytes] = field(default_factory=list)
    put_out: list[Hop | Delivery] = field(default_factory=list)
    dead: list[bytes] = field(default_factory=list)
    done: list[bytes] = field(default_factory=list)
    commits: int = 0


@dataclass
class FlowWorld:
    built: Built
    partitions: list[Partition]
    retries: int
    keeps_states: bool
    inline: bool = True
    streams: dict[str, list[tuple[str, bytes]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.computations: dict[str, Computation] = {**self.built.sources, **self.built.stages}
        self.writer = MessageWriter(
            topology=lambda: Topology(0, len(self.partitions)),
            queue_of=lambda number: NAMES.queue_name(str(number)),
            queue_of_task=lambda task: "celery",
            queue_of_sink=NAMES.sink_group,
            origin="test",
        )

    def push(self, number: int, raw: bytes) -> None:
        self.partitions[number].queue.append(raw)
        self.partitions[number].arrived.append(raw)

    def send(self, source: str, message_id: str, value: Any) -> None:
        """Send as a producer that knows the key."""
        key = self.computations[source].key_of(value)
        self.push(self.writer.topology.partition_of(key), raw_message(source, value, message_id))

    def turn(self, at: Partition, limit: int, ticks: int, *, lost: bool = False) -> None:
        """Run one batch of a queue. With `lost` the commit is refused and must leave nothing behind."""
        source = at.queue[:limit]
        outcome = self._step(at, source, ticks, parked=at.mailboxes)
        if lost:
            at.memory.clear()
            return
        assert outcome.taken >= min(1, len(source))
        del at.queue[: outcome.taken]
        self._commit(at, outcome)

    def retry(self, at: Partition, key: str, limit: int, ticks: int) -> None:
        """Run one batch of a parked key's mailbox."""
        source, attempt = at.mailboxes[key][:limit], at.attempts[key]
        outcome = self._step(at, source, ticks, parked=at.mailboxes, mailbox_of=key, attempt=attempt)
        assert not outcome.mailed
        del at.mailboxes[key][: outcome.taken]
        at.attempts[key] = 1
        self._commit(at, outcome)
        if not at.mailboxes[key]:
            del at.mailboxes[key], at.attempts[key]

    def read(self, at: Partition, raws: list[bytes]) -> list[Any]:
        reading = Reading(self.computations, (), at.number, Topology(0, len(self.partitions)), load_value=CODEC.load_value)
        return read_batch(raws, reading, now=1_000.0, revoked=())

    def _step(self, at: Partition, raws: list[bytes], ticks: int, **how: Any) -> Outcome:
        items = self.read(at, raws)
        slots: dict[str, dict[str, Slot | Unreadable]] = {}
        for item in items:
            assert isinstance(item, Work), item
            for stage in item.computation.stateful:
                self._load(at, stage, item.key, slots.setdefault(stage.name, {}))
        clock = iter(range(1_000_000))
        rules = StepRules(
            partition=at.number,
            policy_of=lambda _: RetryPolicy(self.retries, 1.0, exhausted="dead_letter"),
            mailbox_messages=10_000,
            pickling=CODEC.pickling(),
            clock=lambda: float(next(clock)),
            random=lambda: 0.5,
            seconds=float(ticks),
            writer=self.writer,
            inline=self.inline,
        )
        return step(items, slots, rules, **how)

    def _load(self, at: Partition, stage: Computation, key: str, table: dict[str, Slot | Unreadable]) -> None:
        if key not in table:
            stored = at.stored.get(stage.name, {}).get(key)
            assert stage.state is not None
            fresh = Slot(stage.state.new() if stored is None else CODEC.load(stage, key, stored), stored)
            kept = at.memory.setdefault(stage.name, {})
            table[key] = kept.setdefault(key, fresh) if self.keeps_states else fresh

    def _commit(self, at: Partition, outcome: Outcome) -> None:
        at.commits += 1
        for name, changed in outcome.states.items():
            at.stored.setdefault(name, {}).update(changed)
            for key, after in changed.items():
                slot = at.memory.get(name, {}).get(key)
                if isinstance(slot, Slot):
                    slot.stored = after
        for key, raws in outcome.mailed.items():
            at.mailboxes.setdefault(key, []).extend(raws)
            at.attempts.setdefault(key, 1)
        for key, (failure, _, _) in outcome.parked.items():
            at.attempts[key] = failure.attempt + 1
        at.dead += [broken.raw for broken, _ in outcome.dead]
        at.done += [work.raw for work in outcome.done]
        at.put_out += outcome.emitted  # type: ignore[arg-type]
        for command, where, *values in commands_of_outputs(outcome.emitted, NAMES, str(at.number), at.commits, 0):
            if command == "LPUSH":
                for raw in values:
                    self.push(int(NAMES.partition_of_queue(where) or ""), raw)
            else:
                assert command == "XADD"
                self.streams[where].append((values[-1], values[-5]))

    def waiting(self) -> int:
        return sum(len(at.queue) + sum(map(len, at.mailboxes.values())) for at in self.partitions)


def header(raw: bytes, name: str) -> Any:
    return json.loads(raw)["headers"].get(name)
