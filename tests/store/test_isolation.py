"""Isolation after a worker died: what an owner notes about messages, and what a previous owner's note means."""

from __future__ import annotations

import pytest
import redis

from celery_partitions.store.isolation import IsolatedTry, begin_isolated_try, forgive, note_hang
from celery_partitions.store.leases import Lease, balance, leases_of, release
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import digest_of

RAW = b"a message"


class Owners:
    """Workers that own partition 0 one after another."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self.client, self.names = client, names
        self._count = 0

    def next(self, *, released: bool = False) -> Lease:
        """The next owner, after the previous one died or (`released`) left cleanly."""
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

    def begin(self, lease: Lease, *raws: bytes, largest: int = 100, again: int = 1) -> IsolatedTry | None:
        return begin_isolated_try(self.client, self.names, lease, [digest_of(raw) for raw in raws or (RAW,)], largest, again)

    def forgive(self, lease: Lease, *raws: bytes, stalled: bool = False) -> int:
        return forgive(self.client, self.names, lease, [digest_of(raw) for raw in raws or (RAW,)], stalled=stalled)


@pytest.fixture
def owners(client: redis.Redis, names: Names) -> Owners:
    return Owners(client, names)


def test_each_owner_that_died_is_counted_and_a_second_attempt_of_one_owner_is_not(owners: Owners) -> None:
    for deaths in range(3):
        lease = owners.next()
        assert owners.begin(lease) == owners.begin(lease) == IsolatedTry(1, deaths, 0, None)


def test_an_owner_that_left_does_not_count_as_a_crash(owners: Owners) -> None:
    owners.begin(owners.next())
    assert owners.begin(owners.next(released=True)) == IsolatedTry(1, 0, 0, None)


def test_an_owner_that_was_only_disconnected_withdraws_its_crash(owners: Owners) -> None:
    lost = owners.next()
    owners.begin(lost)
    now = owners.next()
    assert owners.begin(now) == IsolatedTry(1, 1, 0, None)
    assert owners.forgive(lost)
    assert not owners.forgive(lost)
    assert owners.begin(now) == IsolatedTry(1, 0, 0, None)


def test_it_withdraws_its_crash_before_the_next_owner_counts_it_too(owners: Owners) -> None:
    lost = owners.next()
    owners.begin(lost)
    assert owners.forgive(lost)
    assert owners.begin(owners.next()) == IsolatedTry(1, 0, 0, None)


def test_a_fenced_owner_starts_nothing(owners: Owners) -> None:
    lost = owners.next()
    owners.next()
    assert owners.begin(lost) is None
    assert not owners.client.exists(owners.names.isolation("0"))
    assert not note_hang(owners.client, owners.names, lost, RAW, "too long", 20)


def test_every_later_owner_sees_why_a_message_hung(owners: Owners) -> None:
    lease = owners.next()
    assert note_hang(owners.client, owners.names, lease, RAW, "took too long", 20)
    for released in (True, False):
        assert owners.begin(owners.next(released=released)) == IsolatedTry(1, 0, 0, "took too long")


@pytest.mark.parametrize("note", [b"", b"garbage", b"12", b"x:1", b"1:x", b"1:1", b"x:1:0", b"1:x:0", b"1:0:x"])
def test_a_foreign_note_is_ignored(owners: Owners, note: bytes) -> None:
    owners.client.hset(owners.names.isolation("0"), digest_of(RAW), note)  # type: ignore[arg-type]
    assert owners.begin(owners.next()) == IsolatedTry(1, 0, 0, None)


@pytest.mark.parametrize(("released", "to_isolate"), [(False, b"20"), (True, None)])
def test_only_a_partition_whose_owner_died_isolates_messages(owners: Owners, released: bool, to_isolate: bytes | None) -> None:
    owners.next()
    owners.next(released=released)
    assert owners.client.hget(owners.names.meta("0"), "to_isolate") == to_isolate


A, B, C, D = b"a", b"b", b"c", b"d"


def test_messages_without_a_note_form_a_group_of_at_most_the_limit(owners: Owners) -> None:
    lease = owners.next()
    assert owners.begin(lease, A, B, C, D, largest=3) == IsolatedTry(3, 0, 0, None)
    assert owners.begin(lease, A, B, C, D, largest=1) == IsolatedTry(1, 0, 0, None)


def test_a_group_that_killed_a_worker_runs_one_by_one_and_other_messages_as_a_group(owners: Owners) -> None:
    owners.begin(owners.next(), A, B)
    lease = owners.next()
    assert owners.begin(lease, A, B, C, D) == IsolatedTry(1, 1, 0, None)
    assert owners.begin(lease, B, C, D) == IsolatedTry(1, 1, 0, None)
    assert owners.begin(lease, C, D) == IsolatedTry(2, 0, 0, None)


def test_a_group_that_killed_a_worker_runs_in_smaller_groups_if_asked_then_one_by_one(owners: Owners) -> None:
    owners.begin(owners.next(), A, B, C)
    lease = owners.next()
    assert owners.begin(lease, A, B, C, D, again=2) == IsolatedTry(2, 1, 0, None)
    assert owners.begin(lease, C, D, again=2) == IsolatedTry(1, 1, 0, None), "a message without a history is in another group"
    lease = owners.next()
    assert owners.begin(lease, A, B, D, again=2) == IsolatedTry(1, 2, 0, None)
    assert owners.begin(lease, D, A, again=2) == IsolatedTry(1, 0, 0, None)


def test_a_message_with_a_history_is_not_noted_while_it_would_run_beside_others(owners: Owners) -> None:
    owners.begin(owners.next(), A)
    lease = owners.next()
    noted = owners.client.hgetall(owners.names.isolation("0"))
    assert owners.begin(lease, A, B, again=0) == IsolatedTry(0, 1, 0, None)
    assert owners.client.hgetall(owners.names.isolation("0")) == noted
    assert owners.begin(lease, B, A, again=0) == IsolatedTry(1, 0, 0, None)


def test_a_group_ends_before_a_message_with_a_note(owners: Owners) -> None:
    owners.begin(owners.next(), C)
    lease = owners.next()
    assert owners.begin(lease, A, B, C, D) == IsolatedTry(2, 0, 0, None)
    assert owners.begin(lease, C, D) == IsolatedTry(1, 1, 0, None)


def test_a_message_that_hung_runs_alone(owners: Owners) -> None:
    lease = owners.next()
    assert note_hang(owners.client, owners.names, lease, B, "took too long", 20)
    lease = owners.next()
    assert owners.begin(lease, A, B, C) == IsolatedTry(1, 0, 0, None)
    assert owners.begin(lease, B, C) == IsolatedTry(1, 0, 0, "took too long")


def test_a_message_that_blocks_its_process_is_noted_though_no_worker_died(owners: Owners) -> None:
    """Two workers repeatedly take the partition from each other."""
    first = owners.next()
    owners.begin(first, A, B)
    second = owners.next()
    owners.forgive(first, A, B, stalled=True)
    assert owners.begin(second, A, B) == IsolatedTry(1, 0, 1, None)
    third = owners.next()
    assert owners.begin(third, A, B) == IsolatedTry(1, 1, 1, None)
    owners.forgive(second, A, stalled=True)
    assert owners.begin(third, A, B) == IsolatedTry(1, 0, 2, None)
