"""The group of the store's tests (four partitions, partition 2 owned by the worker `one`), and a file for exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.conftest import lease, names, store

__all__ = ["lease", "names", "store"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a group is exported."""
    return tmp_path / "all.jsonl"
