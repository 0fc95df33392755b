"""Workers share the partitions without being configured to. The lease here is long, so no partition moves because a lease expired."""

from __future__ import annotations

from collections.abc import Callable

from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup

#: Workers look for changes once in a third of it, so in these tests a partition moves only because its worker was notified.
LONG_LEASE_SECONDS = 600


def test_a_joining_worker_has_its_share_immediately(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS_LEASE_SECONDS=LONG_LEASE_SECONDS)
    live.start_workers(1)
    joined = live.start_worker()
    live.wait_owned(by=2)
    joined.wait_ready()


def test_the_share_of_a_leaving_worker_is_taken_immediately(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS_LEASE_SECONDS=LONG_LEASE_SECONDS)
    leaving, _ = live.start_workers(2)
    leaving.terminate()
    live.wait_owned(by=1)
    assert leaving.wait() == 0


def test_the_share_of_a_killed_worker_is_taken_when_its_lease_has_ended(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS_LEASE_SECONDS=1)
    killed, _ = live.start_workers(2)
    killed.kill()
    ends = dict(live.client.zrange(live.names.workers, 0, -1, withscores=True))
    live.wait_owned(by=1)
    (gone,) = ends.keys() - {*live.client.zrange(live.names.workers, 0, -1)}
    seconds, microseconds = live.client.time()
    assert seconds * 1000 + microseconds / 1000 >= ends[gone]


def test_no_partition_moves_without_need(make_live: Callable[..., LiveGroup]) -> None:
    """Two workers share five partitions: three and two. When a third worker joins, at most two partitions move."""
    live = make_live(PARTITIONS_LEASE_SECONDS=60)
    live.start_workers(2)
    before = live.owners()
    live.start_workers(1)
    after = live.owners()
    assert len([queue for queue in before if before[queue] != after[queue]]) <= 2


def test_shares_differ_by_at_most_one(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS_LEASE_SECONDS=60, PARTITIONS=7)
    live.start_workers(3)
    owners = list(live.owners().values())
    assert sorted(owners.count(owner) for owner in set(owners)) == [2, 3, 3]
    live.send(record, [Step(f"key-{number}", number) for number in range(100)])
    live.wait_drained()
    assert len(live.numbers(record)) == 100
