"""Finds out which hashes hold something, so that a scan over many partitions reads only those."""

from __future__ import annotations

from collections.abc import Iterable

import redis


def filled(client: redis.Redis, names: Iterable[str]) -> set[str]:
    """Those of the hashes that are not empty, in one round trip. One that can't be read counts as filled, so that its reader gets the error."""
    wanted = list(names)
    with client.pipeline(transaction=False) as pipe:
        for name in wanted:
            pipe.hlen(name)
        lengths = pipe.execute(raise_on_error=False)
    return {name for name, length in zip(wanted, lengths, strict=True) if length != 0}
