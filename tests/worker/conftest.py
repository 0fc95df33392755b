"""A group for each test, which starts its own workers or turns a loop by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.fundamentals.live import LiveGroup, live_groups
from tests.worker.by_hand import LoopByHand, loop_by_hand


@pytest.fixture
def make_live(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., LiveGroup]]:
    """Create groups with any settings. The workers' logs are shown if the test fails."""
    with live_groups(tmp_path) as make:
        yield partial(make, redis_url)


@pytest.fixture
def live(make_live: Callable[..., LiveGroup]) -> LiveGroup:
    """A group with the default settings of the tests."""
    return make_live()


@pytest.fixture
def loop(live: LiveGroup, request: pytest.FixtureRequest) -> Iterator[LoopByHand]:
    """A worker's loop, which the test turns. `LOOP` in the test's module: options of `loop_by_hand`."""
    with loop_by_hand(live, **getattr(request.module, "LOOP", {})) as loop:
        yield loop
