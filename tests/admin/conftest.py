"""The group of the store's tests: four partitions, partition 2 owned by the worker `one`."""

from __future__ import annotations

from tests.store.conftest import lease, names, store

__all__ = ["lease", "names", "store"]
