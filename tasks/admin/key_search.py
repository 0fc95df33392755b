"""Finds keys by how they begin."""

from __future__ import annotations

import re
from typing import Any, cast

from celery_partitions.admin.computations import computations_of
from celery_partitions.admin.documents import json_key
from celery_partitions.admin.overview import Readable
from celery_partitions.model.keys import key_text

#: A search ends when it has found this many keys, or has read this many fields.
PAGE_KEYS = 50
MAX_KEYS_READ = 20_000
SCAN_COUNT = 1_000


def find_keys(group: Readable, computation: str, prefix: str, after: str, limit: int = PAGE_KEYS) -> dict[str, Any]:
    """Keys of a computation that begin with a text, in no particular order. `after`: the `more` of the last answer; empty: from the start.

    It may answer with few keys, or none, and a `more`: one call reads a bounded number of keys.
    """
    names = computations_of(group)
    partitions = group.topology.served
    partition, _, cursor = (after or "0:0").partition(":")
    at, place = min(int(partition), partitions) if partition.isdigit() else 0, int(cursor) if cursor.isdigit() else 0
    found: list[str] = []
    read = 0
    pattern = re.sub(r"([\[\]*?^\\])", r"\\\1", prefix) + "*"
    while at < partitions and computation in names and len(found) < limit and read < MAX_KEYS_READ:
        states = group.names.states(str(at), computation)
        place, fields = cast(Any, group.client.hscan(states, place, match=pattern, count=SCAN_COUNT))
        found += [key_text(field) for field in fields]
        read += SCAN_COUNT
        if not place:
            at += 1
    more = f"{at}:{place}" if at < partitions and computation in names else None
    return {"computations": names, "computation": computation, "prefix": prefix, "keys": [json_key(key) for key in found], "more": more}
