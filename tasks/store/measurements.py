"""What workers measured, in Redis: one hash for a group, a unit's cumulative values as JSON in each field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import redis

from tasks.model.measurements import Measurements, dump_measurements, load_measurements
from tasks.store.names import Names
from tasks.store.scripts import script


def add_measurements(client: redis.Redis, names: Names, fresh: Mapping[str, Measurements]) -> None:
    """Add what was measured since the last call, of all units in one call. After a lost reply it may have been added or not."""
    words = [word for unit, one in fresh.items() for word in (unit, dump_measurements(one))]
    script("measure").run(client, [names.measurements], words)


def ask_measurements(pipe: redis.client.Pipeline, names: Names, all_units: Sequence[str]) -> None:
    """Put the question into a pipeline: one answer."""
    pipe.hmget(names.measurements, list(all_units))


def measurements_in(answer: Any, all_units: Sequence[str]) -> dict[str, Measurements]:
    """The answer to `ask_measurements`, of every unit; nothing measured where it is a refusal."""
    texts = answer if isinstance(answer, list) else [None] * len(all_units)
    return {unit: load_measurements(text) for unit, text in zip(all_units, texts, strict=True)}
