"""A group for each test, which starts its own workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fundamentals.live import LiveGroup


@pytest.fixture
def make_live(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., LiveGroup]]:
    """Create groups with any settings. The workers' logs are shown if the test fails."""
    made: list[LiveGroup] = []
    with ExitStack() as stack:

        def make(**env: object) -> LiveGroup:
            made.append(stack.enter_context(LiveGroup(redis_url, tmp_path, **env)))
            return made[-1]

        yield make
    for live in made:
        live.print_logs()


@pytest.fixture
def live(make_live: Callable[..., LiveGroup]) -> LiveGroup:
    """A group with the default settings of the tests."""
    return make_live()
