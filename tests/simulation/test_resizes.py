"""Schedules in which operators resize the group, abort and finish, while producers learn of it at random moments."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from celery_partitions.model import items
from celery_partitions.store.resize import read_place
from celery_partitions.worker import resizing
from celery_partitions.worker.batch_reader import BatchReader
from celery_partitions.worker.owned import OwnedPartition
from tests.simulation.engines import RESIZE_BREAKS, broken
from tests.simulation.schedule import run

#: About ten seconds on one core.
SCHEDULES = 30

#: Name → the first seed: one of the next few schedules finds the defect.
FIRST = {
    "a message does not wait for older ones": 33,
    "messages that were in the queue before a resize do not wait": 147,
    "what was sent before an abort waits": 4,
    "the holder keeps its token when a resize begins": 35,
}


def test_every_promise_is_kept_during_resizes() -> None:
    seen = Counter[str]()
    for seed in range(SCHEDULES):
        try:
            seen.update(run(seed, resizes=True).faults)
        except AssertionError as error:
            error.add_note(f"seed {seed}: python -m tests.simulation --resizes --seed {seed}")
            raise
    assert {"resize", "abort", "finish", "kill", "lose"} <= seen.keys()


def is_caught(edits: dict[str, str] | None = None, first: int = 0) -> bool:
    for seed in range(first, first + 200):
        try:
            run(seed, edits, resizes=True)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("name", RESIZE_BREAKS)
def test_broken_scripts_are_caught(name: str) -> None:
    assert is_caught(broken(name), FIRST[name])


def test_keys_that_are_used_before_they_came_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "read_place", lambda *arguments: replace(read_place(*arguments), is_complete=True))
    assert is_caught()


def test_a_former_home_that_goes_on_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = BatchReader.reading_of

    def reading_of(reader: BatchReader, owned: OwnedPartition) -> Any:
        found, topology = sound(reader, owned), reader.group.topology
        before = None if topology.former is None else topology.before
        stays = before is not None and owned.number is not None and owned.number < before.partitions
        return type(found)(**{**{name: getattr(found, name) for name in found.__struct_fields__}, "topology": before, "places": {}}) if stays else found

    monkeypatch.setattr(BatchReader, "reading_of", reading_of)
    assert is_caught()


def test_messages_passed_on_behind_younger_ones_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def misrouted(raw: bytes, key: str, where: int, reading: items.Reading) -> items.Misrouted:
        return items.Misrouted(raw, where)

    monkeypatch.setattr(items, "_misrouted", misrouted)
    assert is_caught()
