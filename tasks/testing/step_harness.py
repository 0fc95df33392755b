"""`apply`: runs one computation in your tests, in memory, without Redis or a worker.

    result = apply(update_stock, [Stock("AAPL", 1.0), Stock("AAPL", 2.0)])
    assert result.states["AAPL"].price == 2.0

As in a worker: messages pass through JSON, the key extractor chooses the key, each key has its own state, states are pickled and
unpickled, and a computation that raises leaves the state unchanged. Unlike a worker: messages are not retried (`failures` has each
message that raised, and later messages of its key are in `waiting`), and there is only one partition.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec

from celery_partitions.model.items import Work
from celery_partitions.model.messages import DeliveryInfo, Envelope, Headers, Properties
from celery_partitions.model.outcome import Slot
from celery_partitions.model.policy import RetryPolicy
from celery_partitions.model.step import step
from celery_partitions.model.step_rules import StepRules
from celery_partitions.producer.handle import OrderedComputation
from celery_partitions.runtime.group import Group
from celery_partitions.store.codec import StateCodec
from celery_partitions.testing.capture import Capture, Sent
from celery_partitions.testing.keyspace import Keyspace
from celery_partitions.testing.memory import client_of
from celery_partitions.testing.virtual_time import call_on_virtual_time
from celery_partitions_config.resolution import from_environment
from celery_partitions_config.settings import Settings


@dataclass
class Applied:
    """The result of `apply`."""

    #: Key → state after the last successful message. A key whose first message raised has none.
    states: dict[str, Any] = field(default_factory=dict)
    #: (message, error) of each message that raised.
    failures: list[tuple[Any, str]] = field(default_factory=list)
    #: Messages that wait behind a failed message of their key.
    waiting: list[Any] = field(default_factory=list)
    #: What the computation sent by itself, in order. None of it is delivered.
    sent: list[Sent] = field(default_factory=list)


def apply(
    computation: OrderedComputation[Any, Any],
    messages: Iterable[Any],
    states: Mapping[str, Any] | None = None,
    *,
    resources: Mapping[str, Any] | None = None,
) -> Applied:
    """Apply messages (objects or dicts) in order. `states`: key → initial state object; these objects are not
    changed. `resources`: what computations get as `context.resources`. Coroutines run on a virtual clock: `await asyncio.sleep(60)` takes no time.

    Raises `MessageError` for an invalid message, as a producer does.
    """
    declared = computation.computation
    codec = StateCodec(state_modules=from_environment().state_modules)
    work = [_work(declared, message, number) for number, message in enumerate(messages)]
    slots: dict[str, Any] = {}
    if declared.state is not None:
        for item in work:
            if item.key not in slots:
                given = None if states is None else states.get(item.key)
                stored = None if given is None else codec.dump(declared, item.key, given)
                state = declared.state.new() if stored is None else codec.load(declared, item.key, stored)
                slots[item.key] = Slot(state, stored)
    rules = StepRules(
        partition=0,
        policy_of=lambda _: RetryPolicy(attempts=1),
        mailbox_messages=sys.maxsize,
        pickling=codec.pickling(),
        clock=time.perf_counter,
        random=lambda: 0.5,
        seconds=float("inf"),
        resources=resources or {},
    )
    capture = Capture(cache(_empty_group))
    with capture():
        outcome = step(work, {declared.name: slots}, rules, call=call_on_virtual_time, gathers=False)
    changed = outcome.states.get(declared.name, {})
    capture.commit(outcome)
    result = Applied(sent=capture.sent)
    for key, slot in slots.items():
        stored = changed.get(key, slot.stored)
        if stored is not None:
            result.states[key] = codec.load(declared, key, stored)
    result.failures = [(work.message, failure.error) for failure in outcome.failures for work in failure.messages]
    failed = {work.raw for failure in outcome.failures for work in failure.messages}
    by_raw = {item.raw: item.message for item in work}
    result.waiting = [by_raw[raw] for raws in outcome.mailed.values() for raw in raws if raw not in failed]
    return result


def _empty_group() -> Group:
    """The states that the computation reads with `state()`: none."""
    group = Group(Settings())
    group.client = client_of(Keyspace())
    return group


def _work(declared: Any, message: Any, number: int) -> Work:
    body, decoded = declared.codec.encode(message)
    envelope = Envelope(body, Headers(declared.name, f"test-{number}"), Properties("", DeliveryInfo("")))
    raw = msgspec.json.encode({"number": number})
    return Work(raw, declared, declared.key_of(decoded), decoded, envelope)
