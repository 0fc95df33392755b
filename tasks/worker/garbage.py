"""Python's cyclic garbage collector in a process that keeps many states in memory.

Each full collection visits every object that may be part of a cycle, including states. With a hundred thousand cached states and
random keys, collections took a quarter of a worker's time (py-spy, 1,000,000 keys; 10 % with 1,000).
"""

from __future__ import annotations

import gc

#: The defaults of Python versions. Other thresholds were chosen by the user and stay.
DEFAULT_THRESHOLDS = ((700, 10, 10), (2000, 10, 10), (2000, 10, 0))
#: Allocations minus deallocations between two collections: a few batches' worth. Cycles (such as tracebacks) can hold about
#: 10 MB before they are collected.
OBJECTS_BETWEEN_COLLECTIONS = 50_000
#: How many young collections precede a middle one, and how many middle ones a full one.
COLLECTIONS_BETWEEN_OLDER_ONES = 20


def collect_seldom() -> None:
    """Make collections rare, and exclude the code loaded so far. Called once, when a partition worker starts.

    Does nothing if the collector is off or the process set its own thresholds.
    """
    if not gc.isenabled() or gc.get_threshold() not in DEFAULT_THRESHOLDS:
        return
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, COLLECTIONS_BETWEEN_OLDER_ONES, COLLECTIONS_BETWEEN_OLDER_ONES)
