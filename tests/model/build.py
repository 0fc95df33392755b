"""Builds raw messages as producers write them, and runs the pure functions as a worker's loop does."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Container, Mapping
from typing import Any

from celery_partitions.model.computation import Computation
from celery_partitions.model.items import Item, Reading, Work, read_batch
from celery_partitions.model.outcome import Outcome, Slot, Unreadable
from celery_partitions.model.policy import Exhausted, RetryPolicy, effective_policy
from celery_partitions.model.step import step
from celery_partitions.model.step_rules import StepRules
from celery_partitions.model.topology import Topology
from celery_partitions.store.codec import StateCodec

CODEC = StateCodec()


def raw_envelope(
    body: bytes,
    /,
    *,
    headers: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
    **top: Any,
) -> bytes:
    """A protocol 2 message with this `body`. A header, property or top-level field that is None is omitted."""
    all_headers = {"lang": "py", "task": "count", "id": "m0", **(headers or {})}
    all_properties = {"delivery_tag": "t", "delivery_info": {"exchange": "partition.0"}, "body_encoding": "base64"}
    all_properties.update(properties or {})
    message = {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {name: value for name, value in all_headers.items() if value is not None},
        "properties": {name: value for name, value in all_properties.items() if value is not None},
        **top,
    }
    return json.dumps({name: value for name, value in message.items() if value is not None}).encode()


def raw_message(task: str, message: Any, message_id: str = "m0", **headers: Any) -> bytes:
    """One message of a computation, as Celery's own client writes it."""
    return raw_envelope(json.dumps([[message], {}, {}]).encode(), headers={"task": task, "id": message_id, **headers})


def read(
    computations: list[Computation],
    raws: list[bytes],
    *,
    partition: int | None = 0,
    partitions: int = 1,
    plain_task: Container[str] = (),
    now: float = 1_000.0,
    revoked: Container[str] = (),
) -> list[Item]:
    reading = Reading({each.name: each for each in computations}, plain_task, partition, Topology(0, partitions))
    return read_batch(raws, reading, now=now, revoked=revoked)


def slots_for(items: list[Item], stored: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, Slot | Unreadable]]:
    """What a worker has in memory for these items if Redis has `stored`."""
    slots: dict[str, dict[str, Slot | Unreadable]] = {}
    for item in items:
        if isinstance(item, Work) and item.computation.state is not None:
            table = slots.setdefault(item.computation.name, {})
            if item.key not in table:
                was = stored.get(item.computation.name, {}).get(item.key)
                state = item.computation.state.new() if was is None else CODEC.load(item.computation, item.key, was)
                table[item.key] = Slot(state, was)
    return slots


def rules(
    *,
    retries: int = 3,
    backoff: float = 2.0,
    exhausted: Exhausted = "dead_letter",
    mailbox_messages: int = 1000,
    seconds: float = 1.0,
    clock: Callable[[], float] = lambda: 0.0,
) -> StepRules:
    default = RetryPolicy(retries, backoff, exhausted=exhausted)
    return StepRules(
        partition=0,
        policy_of=lambda computation: effective_policy(default, computation.on_error, None),
        mailbox_messages=mailbox_messages,
        pickling=CODEC.pickling(),
        clock=clock,
        random=lambda: 0.5,
        seconds=seconds,
    )


def run(
    computations: list[Computation],
    raws: list[bytes],
    *,
    stored: Mapping[str, Mapping[str, bytes]] | None = None,
    by: StepRules | None = None,
    **how: Any,
) -> Outcome:
    """Read a batch of messages and run the step. By default no state is stored before."""
    items = read(computations, raws)
    return step(items, slots_for(items, stored or {}), by or rules(), **how)


def state_after(outcome: Outcome, computation: Computation, key: str) -> Any:
    """The state that the outcome writes; None if it writes none."""
    written = outcome.states.get(computation.name, {}).get(key)
    return None if written is None else CODEC.load(computation, key, written)
