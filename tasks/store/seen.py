"""The ids of messages seen, for computations that drop duplicates: two sets of digests, a young one and an old one.

Ids go into the young set, in the commit that takes their messages. When the young set is a window old, or half as full as it
may be, it becomes the old one and the old one is gone: an id is known for one to two windows, or for as long as
`DEDUPLICATE_IDS` others have not come. Only the lease's holder reads and writes them, so what was read holds until its commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from tasks.model.computation import Computation
from tasks.store.names import Names

#: Digests in one SADD: Lua can't unpack many more.
PAGE = 5000


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the ids of one computation in one unit."""

    computation: Computation
    #: Of the digests asked for, those seen.
    digests: frozenset[bytes]
    #: How many digests the young set holds, and when it was begun (server's seconds; None: there is none).
    young: int
    since: float | None


def read_seen(
    client: redis.Redis, names: Names, unit: str, wanted: Mapping[str, tuple[Computation, Sequence[bytes]]]
) -> dict[str, Seen]:
    """Which digests were seen, by computation name, in one round trip."""
    with client.pipeline(transaction=False) as pipe:
        for name, (_, digests) in wanted.items():
            pipe.smismember(names.seen(unit, name, "young"), list(digests))
            pipe.smismember(names.seen(unit, name, "old"), list(digests))
            pipe.scard(names.seen(unit, name, "young"))
            pipe.hget(names.facts(unit), f"seen:{name}")
        rows = iter(pipe.execute())
    found = {}
    for name, (computation, digests) in wanted.items():
        young, old, count, since = next(rows), next(rows), next(rows), next(rows)
        seen = frozenset(one for one, new, before in zip(digests, young, old, strict=True) if new or before)
        found[name] = Seen(computation, seen, count, None if since is None else int(since) / 1000)
    return found


def remember(
    names: Names, unit: str, seen: Mapping[str, Seen], fresh: Mapping[str, Sequence[bytes]], now: float, most: int
) -> list[list[Any]]:
    """The commands that make `fresh` digests seen; `most`: ids that may be remembered for one computation."""
    commands: list[list[Any]] = []
    for name, digests in fresh.items():
        before = seen[name]
        window = before.computation.deduplicate_seconds or 0.0
        young, old = names.seen(unit, name, "young"), names.seen(unit, name, "old")
        is_full = before.young + len(digests) > max(most // 2, 1)
        if before.since is None or now - before.since >= window or is_full:
            if before.young:
                commands.append(["RENAME", young, old])
            commands.append(["HSET", names.facts(unit), f"seen:{name}", round(now * 1000)])
        for start in range(0, len(digests), PAGE):
            commands.append(["SADD", young, *digests[start : start + PAGE]])
        # So that a unit that gets no more messages forgets as well.
        commands.append(["PEXPIRE", young, round(2 * window * 1000)])
    return commands
