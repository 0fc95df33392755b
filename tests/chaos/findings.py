"""What became of the messages: read from Redis and from the workers' notes when all work is done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.chaos.application import COMPUTATIONS, LIST, STREAM
from tests.chaos.expiry import remember
from tests.chaos.recorder import read_records
from tests.chaos.sends import TOLD, read_told
from tests.chaos.timers import plan
from tests.chaos.verdict import Found
from tests.fundamentals.live import LiveGroup


def look(live: LiveGroup, notes: Path, records: Path, complaints: Sequence[str] = ()) -> Found:
    """Everything that the verdict needs."""
    told = [read_told(raw) for raw in reversed(live.client.lrange(TOLD, 0, -1))]
    states, memories = live.group.states, remember.computation
    plans = states.get_many(plan.computation, list(states.keys(plan.name)))
    remembered = states.get_many(memories, list(states.keys(memories.name)))
    entries = live.client.xrange(STREAM)
    lines = notes.read_text().split() if notes.exists() else []
    return Found(
        applied={key: row for one in COMPUTATIONS for key, row in live.numbers(one).items()},
        notes=[int(line) for line in lines],
        dead_letters=live.dead_letters(),
        processed=live.processed(),
        outputs={
            STREAM: [_output(fields[b"message"]) for _, fields in entries],
            LIST: [_output(element) for element in reversed(live.client.lrange(LIST, 0, -1))],
            TOLD: [output for _, output in told],
        },
        output_ids=[fields[b"id"].decode() for _, fields in entries] + [task_id for task_id, _ in told],
        calls=read_records(records),
        stories={key: state.story for key, state in plans.items()},
        lives=sum(state.lives for state in remembered.values()),
        left=list(_left(live)),
        complaints=complaints,
    )


def _output(payload: bytes) -> tuple[str, int]:
    key, number = json.loads(payload)
    return key, number


def _left(live: LiveGroup) -> Iterator[str]:
    """Describe the work that is left."""
    for row in live.group.status():
        waiting = {"queued": row.length, "parked keys": row.parked, "delayed": row.delayed}
        left = ", ".join(f"{count} {what}" for what, count in waiting.items() if count)
        if left:
            yield f"{row.queue}: {left}"
    for mailbox in live.client.scan_iter(f"{{{live.names.root}*}}:mailbox:*", count=1000):
        yield f"{mailbox!r} still holds {live.client.llen(mailbox)} messages"
