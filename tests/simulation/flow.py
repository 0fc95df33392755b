"""The pipeline of the simulation: two hops, a stage with two outputs per message, and windows; and the expected outputs.

    flow ─ first ×2 ─ key_by ─ next ─ key_by ─ last ─┬─ stream "flowed"
                                                     └─ gather (windows of 3) ─ list "gathered"

Each hop renames the keys, so the expected state of each key follows from the key before it.
"""

from __future__ import annotations

import json
from typing import Any

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare
from celery_partitions.pipeline.builder import build
from celery_partitions.pipeline.graph import Pipeline, Source
from celery_partitions.pipeline.sinks import RedisList, RedisStream
from celery_partitions.pipeline.windows import Aggregation, count_windows
from tests.simulation.application import Deed, Sequence, deed_key, during

SOURCE = "flow"
STREAM, LIST = "flowed", "gathered"
#: The number of a message after a hop consists of: the hops times this, ten times the original number, and the index of the output.
HOP = 10**9
GATHERED = 3


def outputs_of(stage: str, key: str, number: int) -> list[tuple[str, str, int]]:
    """(stage, key, number) of the messages that a stage sends when it applies this message."""
    match stage:
        case "first":
            return [("next", f"next-{key}", HOP + 10 * number + place) for place in (0, 1)]
        case "next":
            return [("last", f"last-{key}", HOP + number)]
    return []


def number_of(message_id: str) -> int | None:
    """The number of a message, by its id; None for timers and other messages without a number."""
    parts = message_id.split(":")
    if len(parts) > 3 or not all(part.lstrip("-").isdigit() for part in parts):
        return None
    number, *places = map(int, parts)
    return number if not places else HOP * len(places) + 10 * number + places[0]


def id_of_output(number: int) -> str:
    """The id of the output of `last` for a number."""
    first, place = divmod(number - 2 * HOP, 10)
    return f"{first}:{place}:0:0"


def _apply(deed: Deed, state: Sequence) -> None:
    during[0](deed.number)
    state.numbers.append(deed.number)
    during[0](deed.number)


def first(deed: Deed, state: Sequence) -> list[Deed | None]:
    _apply(deed, state)
    one, other = (Deed(key, number) for _, key, number in outputs_of("first", deed.key, deed.number))
    return [one, None, other]


def following(deed: Deed, state: Sequence) -> Deed:
    _apply(deed, state)
    ((_, key, number),) = outputs_of("next", deed.key, deed.number)
    return Deed(key, number)


def last(deed: Deed, state: Sequence) -> Deed:
    _apply(deed, state)
    return deed


class Gather(Aggregation):
    """The numbers of a window."""

    def name(self) -> str:
        return "gather"

    def initial_accumulator(self) -> list[int]:
        return []

    def update(self, message: Deed, accumulator: list[int]) -> None:
        during[0](message.number)  # here the entry of the stream already exists
        accumulator.append(message.number)

    def output(self, key: str, accumulator: list[int]) -> list[int]:
        return accumulator


def _stage(function: Any, name: str, *, multi: bool = False) -> Computation:
    return declare(function, name=name, state=Sequence, key=None, multi=multi)


def flow() -> dict[str, Computation]:
    """The computations of the pipeline, by name."""
    begun = Pipeline((Source(SOURCE, None, None, None, None),)).key_by(deed_key).to(_stage(first, "first", multi=True))
    ended = begun.key_by(deed_key).to(_stage(following, "next")).key_by(deed_key).to(_stage(last, "last"))
    windows = ended.to(count_windows(GATHERED).over(Gather)).to_sink(RedisList(LIST))
    made = build("flow", ended.to_sink(RedisStream(STREAM)).merge(windows))
    return {**made.sources, **made.stages}


def fields_of_entry(entry: tuple[bytes, list[bytes]]) -> tuple[str, str, int]:
    """The id, key and number of an entry of the stream."""
    _, words = entry
    fields = dict(zip(words[::2], words[1::2], strict=True))
    deed = json.loads(fields[b"message"])
    assert deed["key"] == fields[b"key"].decode()
    return fields[b"id"].decode(), deed["key"], deed["number"]
