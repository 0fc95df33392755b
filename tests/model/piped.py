"""Short pipelines, and what a worker's loop does around their step."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare
from celery_partitions.model.effects import Delivery, Emission, Hop, Push, Timer
from celery_partitions.model.items import Item, Reading, Work, read_batch
from celery_partitions.model.message_writer import MessageWriter
from celery_partitions.model.outcome import Outcome, Slot, Unreadable
from celery_partitions.model.policy import Exhausted, RetryPolicy, effective_policy
from celery_partitions.model.step import step
from celery_partitions.model.step_rules import StepRules
from celery_partitions.model.topology import Topology
from celery_partitions.pipeline.builder import Built, build
from celery_partitions.pipeline.graph import Pipeline, Source
from celery_partitions.pipeline.sinks import RedisStream
from celery_partitions.store.codec import StateCodec
from tests.model.build import raw_message

#: A codec that signs, and allows the classes of the tests' modules.
SIGNING = StateCodec((b"the tests' own",), ("tests.model.*",))


OUT = RedisStream("out")


class Log:
    entries: list[Any] = []  # noqa: RUF012 - each key gets its own copy


def key(value: Any) -> str:
    return str(value["key"])


def only_first(value: Any) -> str:
    return "k"


def same(value: Any) -> Any:
    return value


def raising(value: Any) -> Any:
    if value["do"] == "raise":
        raise ValueError("on purpose")
    return value


def instruction(n: int, do: str = "", k: str = "k") -> dict[str, Any]:
    return {"n": n, "do": do, "key": k}


def begin(name: str = "in", **options: Any) -> Pipeline:
    about = {"config": None, "event_time": None, "deduplicate_seconds": None, "type": None, **options}
    return Pipeline((Source(name=name, **about),))


def stage(function: Any, name: str | None = None, *, state: Any = None, **options: Any) -> Computation:
    """A computation for use as a stage."""
    return declare(function, name=name or function.__name__, state=state, key=None, **options)


def logging(name: str, **options: Any) -> Computation:
    """A stateful stage that appends each value to its state and passes it on."""

    def log(value: Any, state: Log) -> Any:
        state.entries.append(value)
        return value

    return stage(log, name, state=Log, **options)


def built(pipeline: Pipeline, name: str = "app") -> Built:
    return build(name, pipeline)


def writer(partitions: int = 1) -> MessageWriter:
    topology = Topology(0, partitions)
    return MessageWriter(
        topology=lambda: topology,
        queue_of=lambda number: f"partition.{number}",
        queue_of_task=lambda task: "celery",
        queue_of_sink=lambda sink: f"partition.sink.{sink}",
        origin="test",
    )


def send(value: Any, message_id: str = "m", task: str = "in", **headers: Any) -> bytes:
    return raw_message(task, value, message_id, **headers)


def read(app: Built, raws: list[bytes], codec: StateCodec = SIGNING, partitions: int = 1, has_pipelines: bool = True) -> list[Item]:
    computations = {**app.sources, **app.stages}
    reading = Reading(computations, (), 0, Topology(0, partitions), load_value=codec.load_value, has_pipelines=has_pipelines)
    return read_batch(raws, reading, now=1_000.0, revoked=())


def run(
    app: Built,
    raws: list[bytes],
    *,
    codec: StateCodec = SIGNING,
    stored: Mapping[str, Mapping[str, bytes]] | None = None,
    retries: int = 0,
    exhausted: Exhausted = "dead_letter",
    now: float = 0.0,
    **how: Any,
) -> Outcome:
    """Read a batch of messages of one partition and run the step. By default no state is stored before."""
    items = read(app, raws, codec)
    slots: dict[str, dict[str, Slot | Unreadable]] = {}
    for item in items:
        if isinstance(item, Work):
            for one in item.computation.stateful:
                _load(one, item.key, slots.setdefault(one.name, {}), stored or {}, codec)
    default = RetryPolicy(retries, 2.0, exhausted=exhausted)
    rules = StepRules(
        partition=0,
        policy_of=lambda computation: effective_policy(default, computation.on_error, None),
        mailbox_messages=1000,
        pickling=codec.pickling(),
        clock=lambda: 0.0,
        random=lambda: 0.5,
        seconds=1.0,
        writer=writer(),
        now=now,
    )
    return step(items, slots, rules, **how)


def _load(
    one: Computation,
    key: str,
    table: dict[str, Slot | Unreadable],
    stored: Mapping[str, Mapping[str, bytes]],
    codec: StateCodec,
) -> None:
    if key not in table:
        was = stored.get(one.name, {}).get(key)
        assert one.state is not None
        try:
            table[key] = Slot(one.state.new() if was is None else codec.load(one, key, was), was)
        except Exception as error:
            table[key] = Unreadable(str(error))


def states(app: Built, outcome: Outcome, codec: StateCodec = SIGNING) -> dict[str, dict[str, Any]]:
    """The entries of every state that the outcome writes, by stage and key."""
    return {
        name: {key: codec.load(app.stages[name], key, stored).entries for key, stored in changed.items()}
        for name, changed in outcome.states.items()
        if changed
    }


def payloads(outcome: Outcome) -> list[Any]:
    """The decoded payloads for list and stream sinks."""
    return [json.loads(one.payload) for one in outcome.emitted if isinstance(one, Delivery)]


def raws_of(outcome: Outcome) -> list[bytes]:
    """The raw messages that the outcome sends."""
    return [one.raw for one in outcome.emitted if isinstance(one, Hop | Push | Timer)]


def headers_of(raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(raw)["headers"]
    return found


def body_of(raw: bytes) -> Any:
    return json.loads(b64decode(json.loads(raw)["body"]))


def ids(emitted: list[Emission]) -> list[str]:
    return [one.message_id if isinstance(one, Delivery) else headers_of(one.raw)["id"] for one in emitted]
