"""What a partition waits for during a resize where partitions are on several servers."""

from __future__ import annotations

import redis

from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.store.outbox import Outbox
from celery_partitions.store.resize import Source
from celery_partitions.worker.courier import Courier
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.resizing import Cohort

NAMES = Names("partition", is_spread=True)


def test_messages_pass_once_sources_have_sent_on_what_they_had_and_that_has_arrived() -> None:
    cohort = Cohort.of(5, {0: Source(removed=10, left=2, sent=6, arrived=6), 1: Source(removed=0, left=0, sent=3, arrived=2)})
    seen = [cohort.may_pass]
    for first, second in (
        (Source(11, 1, 7, 6), Source(0, 0, 3, 3)),
        (Source(12, 4, 8, 7), Source(0, 0, 3, 3)),  # the last of them was taken, and is on its way
        (Source(13, 3, 9, 8), Source(4, 0, 7, 3)),  # what is sent later does not matter
    ):
        cohort.count_down({0: first, 1: second})
        seen.append(cohort.may_pass)
    assert seen == [False, False, False, True]


def test_an_empty_source_lets_pass_only_what_has_arrived() -> None:
    assert Cohort.of(1, {0: Source(5, 0, 2, 2)}).may_pass
    assert not Cohort.of(1, {0: Source(5, 0, 2, 1)}).may_pass


def test_everything_has_been_brought_once_it_has_arrived_and_is_removed(client: redis.Redis) -> None:
    client.hset(NAMES.meta("0"), "token", 7)
    clock = [0.0]
    owned = OwnedPartition(Lease("0", 7), lambda: clock[0])
    owned.outbox = outbox = Outbox.of_partition(NAMES, "0")
    courier = Courier(client, NAMES, None, lambda: clock[0])
    assert courier.has_brought_all(owned)
    for command in outbox.pack([["LPUSH", NAMES.queue("1"), "message"]]):
        client.execute_command(*command)
    outbox.written()
    client.set(NAMES.queue("1"), "no list")
    assert not courier.has_brought_all(owned)
    client.delete(NAMES.queue("1"))
    clock[0] = 10.0
    assert courier.has_brought_all(owned)
    assert client.llen(NAMES.queue("1")) == 1
    assert client.exists(NAMES.outbox("0")) == 0
