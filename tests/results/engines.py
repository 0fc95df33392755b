"""The tests' application in workers that end at a chosen step, wait at one, or have a rule taken out (`BROKEN_REPLIES`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha1
from itertools import count
from typing import Any

from celery_partitions.model.step import _Step
from celery_partitions.store.scripts import script
from celery_partitions.worker.loop import PartitionLoop
from tests.faults.engines import break_engine  # and reads DIE_AT
from tests.results.application import app, client

__all__ = ["BREAKS", "app"]

#: By name: what is replaced in `commit.lua`, and by what.
BREAKS: Mapping[str, tuple[str, str]] = {
    "counts a part twice": ("if had == 1 then", "if true then"),
    "starts a chord with each part": (
        "if not wanted or ready ~= wanted + tonumber(text(added) or '0') then return end",
        "redis.call('DEL', claim)",
    ),
    "claims nothing": ("  if claimed and claimed.ok then\n", "  if true then\n"),
    "wakes nobody": ("  redis.pcall('PUBLISH', key, value)\n", ""),
    "tells over a success": ("""if string.sub(text(key) or '', 1, 20) == '{"status": "SUCCESS"' then return end""", ""),
}


def break_replies(name: str) -> None:
    if name == "tells the value as it is later":
        sound = _Step.answer

        def late(self: _Step, item: Any, value: Any) -> None:
            kept.append((self, item, value))

        kept: list[Any] = []
        run = _Step.run

        def run_and_answer(self: _Step) -> Any:
            out = run(self)
            for step, item, value in kept:
                sound(step, item, value)
            kept.clear()
            return out

        _Step.answer, _Step.run = late, run_and_answer  # type: ignore[method-assign]
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


def meet_before_commit(others: int) -> None:
    """The first commit that writes something waits until as many workers have come to theirs."""
    sound = PartitionLoop.commit
    first = count()

    def commit(self: PartitionLoop, owned: Any, batch: Any, items: Any, outcome: Any) -> None:
        if outcome.answered and next(first) == 0:
            redis = client()
            redis.rpush("meeting", "here")
            while redis.llen("meeting") < others:
                redis.blpop("never", timeout=0.01)
        sound(self, owned, batch, items, outcome)

    PartitionLoop.commit = commit  # type: ignore[method-assign]


if _name := os.environ.get("BROKEN_REPLIES"):
    break_replies(_name)
if _others := os.environ.get("MEET_BEFORE_COMMIT"):
    meet_before_commit(int(_others))
