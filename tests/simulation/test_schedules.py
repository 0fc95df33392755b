"""Thousands of schedules of the loop, each from its seed; `python -m tests.simulation --seed N` shows one that failed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.store.leases import Share
from tasks.worker.lane import Lane
from tasks.worker.loop import PartitionLoop
from tests.simulation.engines import BREAKS, broken
from tests.simulation.schedule import run

#: All together take about half a minute of one core; in parts, so that none comes near the timeout of a test.
PARTS, SCHEDULES_OF_A_PART = 10, 200

#: What every part must have seen, or it proves little.
KINDS = {"kill", "leave", "freeze", "cut", "request lost", "reply lost", "request late", "server restart", "forget", "edit"}


@pytest.mark.parametrize("part", range(PARTS))
def test_every_promise_is_kept_in_every_schedule(part: int) -> None:
    seen = Counter[str]()
    for seed in range(part * SCHEDULES_OF_A_PART, (part + 1) * SCHEDULES_OF_A_PART):
        try:
            report = run(seed)
        except AssertionError as error:
            error.add_note(f"seed {seed}: python -m tests.simulation --seed {seed}")
            raise
        seen.update(report.faults)
        seen["applied"] += report.applied
    assert seen.keys() >= KINDS
    assert seen["applied"] > 20 * SCHEDULES_OF_A_PART


def is_caught(edits: dict[str, str] | None = None, *, focus: str | None = None, schedules: int = 300) -> bool:
    """Whether some schedule shows what is wrong."""
    for seed in range(schedules):
        try:
            run(seed, edits, focus=focus)
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("name", BREAKS)
def test_an_engine_that_is_broken_in_its_scripts_is_caught(name: str) -> None:
    assert is_caught(broken(name))


def test_states_kept_after_a_refusal_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_less(lane: Lane) -> None:
        lane.messages = []
        lane.unknown = lane.parked_unknown = True

    monkeypatch.setattr(Lane, "forget_all", forget_less)
    assert is_caught()


def test_states_kept_although_an_operator_changed_something_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The revision that a peek or a repeated commit tells is taken over, and what was read before it is kept."""
    sound = Lane.take_reply

    def take_reply(lane: Lane, reply: Any) -> None:
        kept = lane.cache
        sound(lane, reply)
        lane.cache = kept

    monkeypatch.setattr(Lane, "take_reply", take_reply)
    assert is_caught(focus="edit")


def test_a_release_that_is_sent_only_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is lost, the unit is nobody's: this worker has done with it, and Redis says that it is this worker's."""
    sound = PartitionLoop.take_up_share

    def take_up_share(loop: PartitionLoop) -> None:
        known = {unit: token for unit, token in loop._share.owned.items() if (unit, token) not in loop._gone}
        told = loop._share
        if known != told.owned:
            loop._share = Share(known, tuple(unit for unit in told.give_up if unit in known), told.next_end_seconds)
        sound(loop)

    monkeypatch.setattr(PartitionLoop, "take_up_share", take_up_share)
    assert is_caught()


def test_a_seed_is_the_same_schedule_in_every_process() -> None:
    def trace(hash_seed: str) -> str:
        command = [sys.executable, "-m", "tests.simulation", "--seed", "11"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        here = Path(__file__).parents[2]
        done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True, check=True)
        return done.stdout

    one, other = trace("1"), trace("2")
    assert one == other
    assert len(one.splitlines()) > 100
