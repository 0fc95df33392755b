"""Each test begins with computations that have seen nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model import counting


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    yield
    counting.seen.clear()
