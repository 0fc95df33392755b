"""The tests' application in workers that die or wait at a chosen step, or lack a rule (`BROKEN_REPLIES`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha1
from itertools import count
from typing import Any

from celery_partitions.model.batch_step import BatchStep
from celery_partitions.results.recorder import CHORD_PART_RETURN_LUA, _RecordingScript
from celery_partitions.store.scripts import script
from celery_partitions.worker.loop import PartitionLoop
from tests.faults.engines import break_engine  # and reads DIE_AT
from tests.results.application import app, client

__all__ = ["BREAKS", "app"]

#: Name → texts in `commit.lua` and their replacements.
BREAKS: Mapping[str, tuple[str, str]] = {
    "notifies no caller": ("  redis.pcall('PUBLISH', key, value)\n", ""),
    "overwrites a success": ("""if string.sub(text(key) or '', 1, 20) == '{"status": "SUCCESS"' then return end""", ""),
}


def break_replies(name: str) -> None:
    if name == "stores the value as it is later":
        sound = BatchStep.answer

        def late(self: BatchStep, item: Any, value: Any) -> None:
            kept.append((self, item, value))

        kept: list[Any] = []
        run = BatchStep.run

        def run_and_answer(self: BatchStep) -> Any:
            out = yield from run(self)
            for step, item, value in kept:
                sound(step, item, value)
            kept.clear()
            return out

        BatchStep.answer, BatchStep.run = late, run_and_answer  # type: ignore[method-assign]
        return
    if name == "starts a chord with each part":
        count_part = _RecordingScript.__call__

        def count_as_last(self: _RecordingScript, keys: Any, args: Any, client: Any) -> Any:
            found = count_part(self, keys, args, client)
            return (int(found[2]), *found[1:3], 1) if self._text == CHORD_PART_RETURN_LUA and found[2] else found

        _RecordingScript.__call__ = count_as_last  # type: ignore[method-assign]
        return
    if name == "commits again on a retry":
        break_engine(name)
        return
    commit = script("commit")
    text = commit.text.decode()
    right, wrong = BREAKS[name]
    if text.count(right) != 1:
        raise AssertionError(f"commit.lua has changed, and can't be broken as {name!r}: {right}")
    commit.text = text.replace(right, wrong).encode()
    commit.digest = sha1(commit.text).hexdigest()


def meet_before_follow_up(others: int) -> None:
    """The first follow-up waits until `others` more workers have reached theirs."""
    sound = PartitionLoop.run_celery_task
    first = count()

    def run_celery_task(self: PartitionLoop, owned: Any, items: Any) -> Any:
        if next(first) == 0:
            redis = client()
            redis.rpush("meeting", "here")
            while redis.llen("meeting") < others:
                redis.blpop("never", timeout=0.01)
        return sound(self, owned, items)

    PartitionLoop.run_celery_task = run_celery_task  # type: ignore[method-assign]


if _name := os.environ.get("BROKEN_REPLIES"):
    break_replies(_name)
if _others := os.environ.get("MEET_BEFORE_FOLLOW_UP"):
    meet_before_follow_up(int(_others))
