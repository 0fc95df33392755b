"""Messages that run after a worker died: what is noted of them, by whom, and what a note of an earlier lease means."""

from __future__ import annotations

import pytest
import redis

from celery_partitions.store.isolation import IsolatedTry, begin_isolated_try, forgive, note_hang
from celery_partitions.store.leases import Lease, balance, leases_of, release
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import digest_of

RAW = b"a message"


class Owners:
    """Workers that hold partition 0 one after the other."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self.client, self.names = client, names
        self._count = 0

    def next(self, *, released: bool = False) -> Lease:
        """The next owner, after the last one died, or left as it should."""
        for worker, _ in self.client.zrange(self.names.workers, 0, -1, withscores=True):  # type: ignore[misc]
            if released:
                held = leases_of(self.client, self.names, worker.decode())
                release(self.client, self.names, worker.decode(), held, leave=True)
            else:
                self.client.zadd(self.names.workers, {worker: 1})
        self._count += 1
        share = balance(
            self.client, self.names, f"w/{self._count}", lease_seconds=60, partitions=1, isolate_messages=20
        )
        return Lease("0", share.owned["0"])

    def begin(self, lease: Lease, *raws: bytes, largest: int = 100) -> IsolatedTry | None:
        return begin_isolated_try(self.client, self.names, lease, [digest_of(raw) for raw in raws or (RAW,)], largest)

    def forgive(self, lease: Lease, *raws: bytes, stalled: bool = False) -> int:
        return forgive(self.client, self.names, lease, [digest_of(raw) for raw in raws or (RAW,)], stalled=stalled)


@pytest.fixture
def owners(client: redis.Redis, names: Names) -> Owners:
    return Owners(client, names)


def test_each_owner_that_ended_over_it_is_counted_and_a_second_try_of_one_owner_is_not(owners: Owners) -> None:
    for deaths in range(3):
        lease = owners.next()
        assert owners.begin(lease) == owners.begin(lease) == IsolatedTry(1, deaths, 0, None)


def test_an_owner_that_left_did_not_die_over_it(owners: Owners) -> None:
    owners.begin(owners.next())
    assert owners.begin(owners.next(released=True)) == IsolatedTry(1, 0, 0, None)


def test_an_owner_that_was_only_cut_off_takes_its_death_back(owners: Owners) -> None:
    lost = owners.next()
    owners.begin(lost)
    now = owners.next()
    assert owners.begin(now) == IsolatedTry(1, 1, 0, None)
    assert owners.forgive(lost)
    assert not owners.forgive(lost)
    assert owners.begin(now) == IsolatedTry(1, 0, 0, None)


def test_and_before_anybody_counted_it_too(owners: Owners) -> None:
    lost = owners.next()
    owners.begin(lost)
    assert owners.forgive(lost)
    assert owners.begin(owners.next()) == IsolatedTry(1, 0, 0, None)


def test_one_that_was_fenced_off_begins_nothing(owners: Owners) -> None:
    lost = owners.next()
    owners.next()
    assert owners.begin(lost) is None
    assert not owners.client.exists(owners.names.isolation("0"))
    assert not note_hang(owners.client, owners.names, lost, RAW, "too long", 20)


def test_one_that_hung_says_why_to_every_owner_after_it(owners: Owners) -> None:
    lease = owners.next()
    assert note_hang(owners.client, owners.names, lease, RAW, "took too long", 20)
    for released in (True, False):
        assert owners.begin(owners.next(released=released)) == IsolatedTry(1, 0, 0, "took too long")


@pytest.mark.parametrize("note", [b"", b"garbage", b"12", b"x:1", b"1:x", b"1:1", b"x:1:0", b"1:x:0", b"1:0:x"])
def test_a_note_that_is_not_ours_counts_as_none(owners: Owners, note: bytes) -> None:
    owners.client.hset(owners.names.isolation("0"), digest_of(RAW), note)  # type: ignore[arg-type]
    assert owners.begin(owners.next()) == IsolatedTry(1, 0, 0, None)


@pytest.mark.parametrize(("released", "to_isolate"), [(False, b"20"), (True, None)])
def test_only_a_partition_whose_owner_died_is_suspect(owners: Owners, released: bool, to_isolate: bytes | None) -> None:
    owners.next()
    owners.next(released=released)
    assert owners.client.hget(owners.names.meta("0"), "to_isolate") == to_isolate


A, B, C, D = b"a", b"b", b"c", b"d"


def test_messages_without_a_history_are_a_group_of_at_most_the_largest(owners: Owners) -> None:
    lease = owners.next()
    assert owners.begin(lease, A, B, C, D, largest=3) == IsolatedTry(3, 0, 0, None)
    assert owners.begin(lease, A, B, C, D, largest=1) == IsolatedTry(1, 0, 0, None)


def test_a_group_over_which_a_worker_died_runs_one_by_one_and_the_others_as_a_group(owners: Owners) -> None:
    owners.begin(owners.next(), A, B)
    lease = owners.next()
    assert owners.begin(lease, A, B, C, D) == IsolatedTry(1, 1, 0, None)
    assert owners.begin(lease, B, C, D) == IsolatedTry(1, 1, 0, None)
    assert owners.begin(lease, C, D) == IsolatedTry(2, 0, 0, None)


def test_a_group_ends_before_a_message_with_a_history(owners: Owners) -> None:
    owners.begin(owners.next(), C)
    lease = owners.next()
    assert owners.begin(lease, A, B, C, D) == IsolatedTry(2, 0, 0, None)
    assert owners.begin(lease, C, D) == IsolatedTry(1, 1, 0, None)


def test_one_that_hung_runs_alone(owners: Owners) -> None:
    lease = owners.next()
    assert note_hang(owners.client, owners.names, lease, B, "took too long", 20)
    lease = owners.next()
    assert owners.begin(lease, A, B, C) == IsolatedTry(1, 0, 0, None)
    assert owners.begin(lease, B, C) == IsolatedTry(1, 0, 0, "took too long")


def test_a_message_that_stops_its_process_is_remembered_though_no_worker_died(owners: Owners) -> None:
    """Two workers take the partition from each other."""
    first = owners.next()
    owners.begin(first, A, B)
    second = owners.next()
    owners.forgive(first, A, B, stalled=True)
    assert owners.begin(second, A, B) == IsolatedTry(1, 0, 1, None)
    third = owners.next()
    assert owners.begin(third, A, B) == IsolatedTry(1, 1, 1, None)
    owners.forgive(second, A, stalled=True)
    assert owners.begin(third, A, B) == IsolatedTry(1, 0, 2, None)
