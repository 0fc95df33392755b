"""What the workers of a chaos run compute, on the engine as it is or (`BROKEN_ENGINE`) broken on purpose.

The state of a key is the history of its messages. The sleep is the work that is interrupted, not a wait of a test's.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tasks import Context, key_extractor, state_computation
from tests.faults.engines import app

__all__ = ["ALWAYS", "Act", "History", "app", "note", "play"]

#: Of `Act.raises`: at every try.
ALWAYS = -1


@dataclass
class Act:
    """One message: `number` is to be appended to the state of `key`, after `raises` tries that raise."""

    key: str
    number: int
    raises: int = 0
    seconds: float = 0.0


class History:
    """The numbers of one key, in the order applied."""

    numbers: list[int] = []  # noqa: RUF012 - each key gets its own copy


@key_extractor
def act_key(act: Act) -> str:
    return act.key


@state_computation(name="play", state=History, key=act_key)
def play(act: Act, state: History, context: Context) -> None:
    """Changes the state before it raises: the change must be gone."""
    time.sleep(act.seconds)
    state.numbers.append(act.number)
    if act.raises == ALWAYS or context.attempt <= act.raises:
        raise ValueError(f"{act.number} raises at try {context.attempt}")


@app.task(name="note", ignore_result=True)
def note(number: int) -> None:
    """An ordinary Celery task in a partition's queue; runs at least once. A line of the file is written whole."""
    with Path(os.environ["CHAOS_NOTES"]).open("a") as notes:
        notes.write(f"{number}\n")
