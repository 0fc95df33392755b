"""How many files a reader passes who follows one message's batch from its partition's turn to the written commit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType

import celery_partitions
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.worker.by_hand import loop_by_hand

OURS = str(Path(celery_partitions.__file__).parent)


def test_a_batch_passes_few_files(make_live: Callable[..., LiveGroup]) -> None:
    """Counts the files of the Python calls, and how often a call enters one that the walk had left: each is a place where the reader loses the
    thread."""
    live = make_live(PARTITIONS=1)
    calls: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            calls.append(frame.f_code.co_filename.removeprefix(OURS))

    with loop_by_hand(live) as loop:
        live.send(record, [Step("key", 0)])
        loop.take_turns()
        live.send(record, [Step("key", 1)])
        loop.owned.look_again()
        sys.setprofile(note)
        try:
            owned = loop.next_partition()
            assert owned is loop.owned
            loop.work(owned)
            loop.commits.settle()
        finally:
            sys.setprofile(None)
    assert live.numbers_of(record, "key") == [0, 1]
    walk = [file for file, _ in groupby(calls)]
    files = dict.fromkeys(walk)
    assert "/worker/loop.py" in files and "/model/batch_step.py" in files
    assert len(files) <= 36, list(files)  # 34 when this was written
    assert len(walk) - len(files) <= 62, walk  # 58
