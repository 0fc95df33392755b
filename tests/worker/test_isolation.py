"""After a crash the next owner runs messages in groups, and reads no message twice for it."""

from __future__ import annotations

from collections.abc import Callable

from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.worker.by_hand import loop_by_hand

SUSPECTS, BACKLOG = 2000, 3000


def test_the_groups_are_large_and_are_read_once(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_BATCH_MESSAGES=SUSPECTS)
    live.send(record, [Step("key", number) for number in range(BACKLOG)])
    live.client.hset(live.names.meta("0"), "to_isolate", SUSPECTS)
    with loop_by_hand(live) as loop:
        asked, taken = 0, []
        while (owned := loop.next_partition()) is not None:
            loop.work(owned)
            if loop.commits.pending is not None:
                commit = loop.commits.pending.planned.commit
                taken.append(commit.taken)
                asked += commit.ask if loop.owned.to_isolate > commit.taken else 0
            loop.commits.settle()
    assert sum(taken) == BACKLOG
    assert asked < SUSPECTS
    assert len(taken) <= 6
    assert not live.client.exists(live.names.isolation("0"))
