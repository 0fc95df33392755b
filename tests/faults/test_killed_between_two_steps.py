"""A worker dies between any two steps of its loop. The next owner continues after the last commit."""

from __future__ import annotations

import signal

import pytest

from tests.faults import engines
from tests.faults.traffic import Traffic
from tests.fundamentals.live import LiveGroup

PLACES = [
    "parked:after",
    "take_batch:after",
    "items:after",
    "states:after",
    "step:after",
    "send:before",
    "begin:after",  # the commit is sent; its answer has not been read
    "answer:after",  # the commit is written; the worker's memory does not know it yet
    "settle:after",
]


@pytest.mark.parametrize("place", PLACES)
def test_killed(live: LiveGroup, place: str) -> None:
    traffic = Traffic(live)
    traffic.send(300)
    doomed = live.start_worker(module=engines.__name__, DIE_AT=f"{place}:4")
    assert doomed.wait(timeout=60) == -signal.SIGKILL
    traffic.check_so_far()
    live.start_worker()
    traffic.check()
