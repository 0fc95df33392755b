"""A worker never gets a partition whose states its code cannot read: the claim refuses, and the others share such partitions."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_partitions.admin.status import read_status
from celery_partitions.store.leases import Share, balance, leases_of, release
from celery_partitions.store.names import INGRESS, Names
from celery_partitions.store.worker_code import WorkerCode

N = 8


class Rollout:
    """Workers with older and newer code, which look at their shares as the lease keeper does."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self.client, self.names = client, names
        self.codes: dict[str, WorkerCode] = {}
        self.pins: dict[str, tuple[str, ...]] = {}
        self.shares: dict[str, Share] = {}

    def start(self, worker: str, version: int, *pins: str) -> None:
        self.codes[worker], self.pins[worker] = WorkerCode({"count": version}), pins

    def step(self, worker: str) -> Share:
        refused = self.shares[worker].refused if worker in self.shares else ()
        share = balance(
            self.client, self.names, worker, lease_seconds=3600, partitions=N, code=self.codes[worker], refused=refused, pins=self.pins[worker]
        )
        self.shares[worker] = share
        for partition in share.owned:
            assert int(self.versions().get(partition, 1)) <= self.codes[worker].reads["count"], "it cannot read the partition"
        if share.give_up:
            release(self.client, self.names, worker, {partition: share.owned[partition] for partition in share.give_up})
        return share

    def settle(self) -> None:
        stable = 0
        for _ in range(4 * len(self.codes) + 4):
            before = self.held(), self.client.hgetall(self.names.refused)
            for worker in self.codes:
                self.step(worker)
            stable = stable + 1 if (self.held(), self.client.hgetall(self.names.refused)) == before else 0
            if stable == 2:  # what one worker gives up, another may take in the next round
                return
        raise AssertionError("the shares never become stable")

    def held(self) -> dict[str, set[str]]:
        return {worker: set(leases_of(self.client, self.names, worker)) - {INGRESS} for worker in self.codes}

    def stop(self, worker: str) -> None:
        release(self.client, self.names, worker, leases_of(self.client, self.names, worker), leave=True)
        del self.codes[worker]

    def die(self, worker: str) -> None:
        self.client.zadd(self.names.workers, {worker: 1}, xx=True)
        del self.codes[worker]

    def write(self, version: int, *partitions: str) -> None:
        for partition in partitions:
            self.client.hset(self.names.meta(partition), self.names.version_field("count"), version)

    def versions(self) -> Mapping[str, bytes]:
        found = {str(number): self.client.hget(self.names.meta(str(number)), self.names.version_field("count")) for number in range(N)}
        return {partition: version for partition, version in found.items() if version is not None}  # type: ignore[misc]


@pytest.fixture
def rollout(client: redis.Redis, names: Names) -> Rollout:
    return Rollout(client, names)


ALL = {str(number) for number in range(N)}


def test_a_worker_with_older_code_gets_none_of_them_and_says_why(rollout: Rollout, names: Names) -> None:
    rollout.write(2, "3")
    rollout.start("old", 1)
    share = rollout.step("old")
    assert set(share.owned) == {*ALL, INGRESS} - {"3"}
    assert str(share.refused["3"]) == (
        "its states of 'count' have version 2, but this worker's code reads only up to version 1. A worker with the newer code must take it: "
        "finish the deploy, or stop this worker"
    )
    assert rollout.client.hget(names.meta("3"), "token") is None, "it was not claimed"
    assert rollout.step("old").refused == share.refused, "it stays so"
    assert rollout.client.hget(names.refused, "old") == b"3" and rollout.client.hget(names.owners, "3") is None
    assert WorkerCode.from_json(rollout.client.hget(names.reads, "old") or b"") == rollout.codes["old"]  # type: ignore[arg-type]


def test_workers_that_can_read_them_share_them_beyond_their_shares(rollout: Rollout) -> None:
    rollout.write(2, "0", "1", "2", "3", "4", "5")
    for worker, version in (("old", 1), ("new", 2), ("newer", 3)):
        rollout.start(worker, version)
    rollout.settle()
    held = rollout.held()
    assert set.union(*held.values()) == ALL
    assert held["old"] <= {"6", "7"}
    assert abs(len(held["new"]) - len(held["newer"])) <= 2


def test_the_shares_are_even_again_when_the_older_workers_have_ended(rollout: Rollout, names: Names) -> None:
    rollout.write(2, *ALL)
    rollout.start("old", 1)
    rollout.start("new", 2)
    rollout.settle()
    assert rollout.held() == {"old": set(), "new": ALL}
    rollout.start("newer", 2)
    rollout.stop("old")
    rollout.settle()
    assert {len(held) for held in rollout.held().values()} == {4}
    assert rollout.client.hgetall(names.refused) == {} and set(rollout.client.hgetall(names.reads)) == {b"new", b"newer"}  # type: ignore[arg-type]


def test_a_pinned_worker_that_cannot_read_its_partition_does_not_get_it(rollout: Rollout) -> None:
    rollout.write(2, "1")
    rollout.start("old", 1, "1", "2")
    rollout.settle()
    assert rollout.held() == {"old": {"2"}}
    rollout.start("new", 2, "1")
    rollout.settle()
    assert rollout.held() == {"old": {"2"}, "new": {"1"}}


def test_an_emptied_group_is_open_to_all(rollout: Rollout, names: Names) -> None:
    rollout.write(2, *ALL)
    rollout.start("old", 1)
    rollout.settle()
    rollout.client.flushdb()
    rollout.settle()
    assert rollout.held() == {"old": ALL} and rollout.shares["old"].refused == {}


@pytest.mark.parametrize("written", [b"x", b"-1x", b"", b"9" * 400, b"nan"])
def test_a_forged_version_refuses_the_partition(rollout: Rollout, names: Names, written: bytes) -> None:
    rollout.client.hset(names.meta("0"), names.version_field("count"), written)  # type: ignore[arg-type]
    rollout.start("one", 1)
    rollout.codes["one"] = WorkerCode({"count": 1})
    share = balance(rollout.client, names, "one", lease_seconds=60, partitions=N, code=rollout.codes["one"])
    assert list(share.refused) == ["0"] and "0" not in share.owned
    again = balance(rollout.client, names, "one", lease_seconds=60, partitions=N, code=rollout.codes["one"], refused=share.refused)
    assert again.refused == share.refused


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    versions=st.lists(st.integers(1, 3), min_size=N, max_size=N),
    events=st.lists(st.tuples(st.sampled_from(["start", "stop", "die", "write", "step"]), st.integers(0, 9), st.integers(1, 3)), max_size=15),
)
def test_whatever_happens_what_can_be_read_is_held(
    client: redis.Redis, names: Names, versions: list[int], events: list[tuple[str, int, int]]
) -> None:
    """`Rollout.step` checks that nobody holds what it cannot read."""
    client.flushdb()
    rollout = Rollout(client, names)
    rollout.start("first", 1)
    for number, version in enumerate(versions):
        rollout.write(version, str(number))
    for what, which, version in events:
        some = sorted(rollout.codes)[which % len(rollout.codes)] if rollout.codes else None
        if what == "start":
            rollout.start(f"worker {which}", version) if f"worker {which}" not in rollout.codes else None
        elif some is not None and what == "write":  # as the holder's commit does
            for partition in rollout.held()[some]:
                rollout.write(max(rollout.codes[some].reads["count"], int(rollout.versions().get(partition, 1))), partition)
        elif some is not None:
            {"stop": rollout.stop, "die": rollout.die, "step": rollout.step}[what](some)
    rollout.settle()
    best = max((code.reads["count"] for code in rollout.codes.values()), default=0)
    held = set().union(*rollout.held().values())
    assert held == {partition for partition in ALL if int(rollout.versions().get(partition, 1)) <= best}


def test_the_status_names_the_workers_that_may_not_own_a_partition(rollout: Rollout, names: Names) -> None:
    rollout.write(2, "3")
    rollout.start("old@host/1", 1)
    rollout.settle()
    rows = {row.queue: (row.owner, row.refused_to) for row in read_status(rollout.client, names, N)}
    assert rows["partition.3"] == (None, ("old@host",)) and rows["partition.2"] == ("old@host", ())
    rollout.stop("old@host/1")
    assert read_status(rollout.client, names, N)[3].refused_to == ()


def share_of(client: redis.Redis, names: Names, worker: str, code: WorkerCode) -> Share:
    """The share of a worker that takes all, which then leaves."""
    share = balance(client, names, worker, lease_seconds=3600, partitions=N, code=code)
    again = balance(client, names, worker, lease_seconds=3600, partitions=N, code=code, refused=share.refused)
    assert again.refused == share.refused, "the claim and the look at what was refused decide the same"
    release(client, names, worker, dict(share.owned), leave=True)
    return share


NEW = WorkerCode({"sum": 2}, {"count": "sum"})


def test_the_claim_takes_over_what_has_a_former_name(client: redis.Redis, names: Names) -> None:
    client.hset(names.states("0", "count"), mapping={"a": "1", "b": "2"})
    client.hset(names.states("1", "count"), mapping={"a": "1", "b": "2"})
    client.hset(names.states("1", "sum"), mapping={"b": "newer"})
    client.hset(names.meta("0"), mapping={"version:count": 2, "seen:count": 5})
    for partition, age, ids in (("0", "young", "x"), ("1", "old", "y")):
        client.sadd(names.deduplication(partition, "count", age), ids)  # type: ignore[arg-type]
    client.sadd(names.deduplication("1", "sum", "old"), "z")
    for buckets in (names.rates("0", "count"), names.rates("1", "count"), names.shared_rates("count")):
        client.zadd(buckets, {"a": 5, "b": 7})
    client.zadd(names.rates("1", "sum"), {"b": 6, "c": 8})
    client.zadd(names.shared_rates("sum"), {"b": 9})
    assert set(share_of(client, names, "new", NEW).owned) == {*ALL, INGRESS}
    assert client.hgetall(names.states("0", "sum")) == {b"a": b"1", b"b": b"2"} and not client.exists(names.states("0", "count"))
    assert client.hgetall(names.states("1", "sum")) == {b"a": b"1", b"b": b"newer"}
    assert client.hgetall(names.states("1", "count")) == {b"b": b"2"}, "nobody may decide which of them counts"
    assert client.smembers(names.deduplication("0", "sum", "young")) == {b"x"}
    assert client.smembers(names.deduplication("1", "sum", "old")) == {b"y", b"z"}
    found = client.hmget(names.meta("0"), ["version:sum", "version:count", "seen:sum", "seen:count"])
    assert found == [b"2", b"renamed to sum", b"5", None]
    assert client.zrange(names.rates("0", "sum"), 0, -1, withscores=True) == [(b"a", 5), (b"b", 7)]
    assert client.zrange(names.rates("1", "sum"), 0, -1, withscores=True) == [(b"a", 5), (b"b", 7), (b"c", 8)], "no token is given twice"
    assert client.zrange(names.shared_rates("sum"), 0, -1, withscores=True) == [(b"a", 5), (b"b", 9)]
    assert not client.exists(names.rates("0", "count"), names.rates("1", "count"), names.shared_rates("count"))


def test_only_code_that_knows_the_new_name_gets_the_partition(client: redis.Redis, names: Names) -> None:
    share_of(client, names, "new", NEW)
    refused = share_of(client, names, "old", WorkerCode({"count": 9})).refused
    assert set(refused) == ALL
    assert str(refused["3"]).startswith("newer code has renamed 'count' to 'sum', and took its states over. A worker with that code must take it")
    assert set(share_of(client, names, "other", WorkerCode({"other": 1})).owned) == {*ALL, INGRESS}, "it would write no states of either"
    client.hset(names.states("0", "sum"), "a", "1")
    back = WorkerCode({"count": 2}, {"sum": "count"})
    assert set(share_of(client, names, "back", back).owned) == {*ALL, INGRESS}
    assert client.hgetall(names.states("0", "count")) == {b"a": b"1"}
    assert set(share_of(client, names, "new", NEW).owned) == {*ALL, INGRESS}
    assert client.hgetall(names.states("0", "sum")) == {b"a": b"1"}
    newest = WorkerCode({"total": 2}, {"count": "total", "sum": "total"})
    assert set(share_of(client, names, "newest", newest).owned) == {*ALL, INGRESS}
    assert set(share_of(client, names, "new", NEW).refused) == ALL


def test_states_under_a_former_name_may_be_too_new(client: redis.Redis, names: Names) -> None:
    client.hset(names.meta("3"), "version:count", 3)
    refused = share_of(client, names, "new", NEW).refused
    assert list(refused) == ["3"] and "version 3" in str(refused["3"])
