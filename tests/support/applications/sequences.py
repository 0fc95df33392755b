"""Each key's state is the list of the numbers applied to it. The history check reads these lists."""

from __future__ import annotations

from dataclasses import dataclass

from celery_partitions import app, key_extractor, state_computation

__all__ = ["Sequence", "Step", "app", "record", "step_key"]


@dataclass
class Step:
    """One message: it appends `number` to the state of `key`."""

    key: str
    number: int


class Sequence:
    """The numbers of one key, in the order applied."""

    numbers: list[int] = []  # noqa: RUF012 - a mutable class attribute on purpose: each key must have its own


@key_extractor
def step_key(step: Step) -> str:
    return step.key


@state_computation(name="record", state=Sequence, key=step_key)
def record(step: Step, state: Sequence) -> None:
    state.numbers.append(step.number)
