"""Seen ids: remembered for at least one window, forgotten after two, and never more than the limit."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare
from celery_partitions.store.commands import commands_of
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.deduplication import read_seen_ids, remember
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from tests.store.declared import commit_of

WINDOW_SECONDS = 100.0


class Nothing:
    pass


ONCE: Computation = declare(
    lambda message, state: None, name="once", state=Nothing, key=lambda _: "k", deduplicate=WINDOW_SECONDS
)


class Ids:
    """The ids of one partition, read and remembered as its worker does it."""

    def __init__(self, store: CommitStore, lease: Lease) -> None:
        self.store, self.lease, self.commit_number = store, lease, 0

    def receive(self, *ids: str, now: float, limit: int = 1000) -> set[str]:
        """Receive and commit messages with these ids. Returns the ids that were seen before."""
        seen = read_seen_ids(self.store.client, self.store.names, "2", {"once": (ONCE, ids)})
        fresh = [one for one in ids if one not in seen["once"].ids]
        commands = commands_of(remember(seen, {"once": fresh} if fresh else {}, now, limit), self.store.names, "2", 0, now)
        if commands:
            assert self.store.send(commit_of(self.lease, [], commit_number=self.commit_number, commands=commands)).status == "ok"
            self.commit_number += 1
        return set(seen["once"].ids)


@pytest.fixture
def ids(store: CommitStore, lease: Lease) -> Ids:
    return Ids(store, lease)


def test_an_id_is_seen_after_its_commit(ids: Ids) -> None:
    assert ids.receive("a", "b", now=0.0) == set()
    assert ids.receive("a", "c", now=1.0) == {"a"}
    assert ids.receive("a", "b", "c", "d", now=2.0) == {"a", "b", "c"}


def test_an_id_is_known_for_a_window_and_forgotten_after_two(ids: Ids) -> None:
    ids.receive("a", now=1_000.0)
    assert ids.receive("b", now=1_000.0 + WINDOW_SECONDS) == set()  # the young set becomes the old one
    assert ids.receive("a", now=1_001.0 + WINDOW_SECONDS) == {"a"}
    assert ids.receive("c", now=1_001.0 + 2 * WINDOW_SECONDS) == set()
    assert ids.receive("a", now=1_002.0 + 2 * WINDOW_SECONDS) == set()


def test_long_ids_are_distinguished_and_need_no_more_memory(ids: Ids, client: redis.Redis, names: Names) -> None:
    one, other = "x" * 10_000, "x" * 9_999 + "y"
    ids.receive(one, now=1.0)
    assert ids.receive(one, other, now=2.0) == {one}
    assert max(map(len, client.smembers(names.deduplication("2", "once", "young")))) < 50  # type: ignore[arg-type]


def test_no_more_ids_are_remembered_than_the_limit(ids: Ids, client: redis.Redis, names: Names) -> None:
    for number in range(50):
        ids.receive(*(f"{number}-{one}" for one in range(10)), now=1.0, limit=100)
        counts: list[Any] = [client.scard(names.deduplication("2", "once", age)) for age in ("young", "old")]  # type: ignore[arg-type]
        assert sum(counts) <= 100
    assert ids.receive("49-0", "0-0", now=1.0) == {"49-0"}


def test_a_partition_without_messages_forgets_its_ids_too(ids: Ids, client: redis.Redis, names: Names) -> None:
    ids.receive("a", now=1.0)
    left = client.pttl(names.deduplication("2", "once", "young"))
    assert 1.9 * WINDOW_SECONDS * 1000 < left <= 2 * WINDOW_SECONDS * 1000  # type: ignore[operator]


def test_ids_that_expire_between_reading_and_commit_do_not_fail_the_commit(ids: Ids, client: redis.Redis, names: Names) -> None:
    ids.receive("a", now=1.0)
    seen = read_seen_ids(client, names, "2", {"once": (ONCE, ["b"])})
    client.delete(names.deduplication("2", "once", "young"))
    now = 1.0 + WINDOW_SECONDS
    commands = commands_of(remember(seen, {"once": ["b"]}, now, 1000), names, "2", 0, now)
    assert ids.store.send(commit_of(ids.lease, [], commit_number=1, commands=commands)).status == "ok"
    ids.commit_number = 2
    assert ids.receive("b", now=2.0 + WINDOW_SECONDS) == {"b"}
