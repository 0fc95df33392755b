"""Python's cyclic garbage collector in a process that keeps many states in memory.

Each full collection looks at every object that may be part of a cycle, and states count among them: with a hundred thousand
cached and random keys, collections took a quarter of a worker's time (py-spy, 1,000,000 keys; 10 % with 1,000).
"""

from __future__ import annotations

import gc

#: What a new Python process has. Where somebody chose other thresholds, theirs stay.
DEFAULT_THRESHOLDS = ((700, 10, 10), (2000, 10, 10), (2000, 10, 0))
#: Objects made, less those gone, between two collections: a few batches' worth, so that cycles (a traceback is one) can
#: hold some 10 MB before they are found.
OBJECTS_BETWEEN_COLLECTIONS = 50_000
#: Young collections in a middle one, and middle ones in a full one.
COLLECTIONS_BETWEEN_OLDER_ONES = 20


def collect_seldom() -> None:
    """Called once, when a partition worker starts and all code is loaded: that is never looked at again, and what comes later
    seldom. Nothing changes for a process whose collector is off, or that set thresholds of its own."""
    if not gc.isenabled() or gc.get_threshold() not in DEFAULT_THRESHOLDS:
        return
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, COLLECTIONS_BETWEEN_OLDER_ONES, COLLECTIONS_BETWEEN_OLDER_ONES)
