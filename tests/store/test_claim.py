"""claim.lua: the server that has the partition's data issues the fencing token, whatever the group's keys say."""

from __future__ import annotations

import redis

from celery_partitions.store.leases import balance, leases_of, release
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script


def claim(client: redis.Redis, names: Names, worker: str, since: int, to_isolate: int = 0) -> list[bytes | int]:
    answer: list[bytes | int] = script("claim").run(client, [names.meta("0")], [worker, since, to_isolate])
    return answer


def meta(client: redis.Redis, names: Names) -> dict[bytes, bytes]:
    return client.hgetall(names.meta("0"))  # type: ignore[return-value]


def test_each_claim_gives_a_higher_token(client: redis.Redis, names: Names) -> None:
    tokens = [int(claim(client, names, worker, since)[1]) for worker, since in (("one", 1), ("two", 2), ("two", 2), ("one", 3))]
    assert tokens == sorted(set(tokens))
    assert meta(client, names).items() >= {b"token": b"%d" % tokens[-1], b"holder": b"one", b"since": b"3"}.items()


def test_the_last_times_that_a_dead_workers_partition_was_taken_are_noted(client: redis.Redis, names: Names) -> None:
    token = int(claim(client, names, "one", 1)[1])
    assert release(client, names, "one", {"0": token}) == 1
    claim(client, names, "two", 2)
    claim(client, names, "two", 2)
    assert b"takeovers" not in meta(client, names), "nobody died"
    for since in range(3, 16):
        claim(client, names, f"worker {since}", since)
    times = [int(text) for text in meta(client, names)[b"takeovers"].split()]
    assert len(times) == 10
    assert times == sorted(times, reverse=True)
    assert abs(times[0] / 1000 - client.time()[0]) < 5  # type: ignore[index]


def test_a_claim_for_an_earlier_assignment_is_refused_and_changes_nothing(client: redis.Redis, names: Names) -> None:
    claim(client, names, "two", 2)
    before = meta(client, names)
    assert claim(client, names, "one", 1) == [b"superseded", b"2"]
    assert meta(client, names) == before


def test_an_owner_that_did_not_release_may_have_been_killed_by_a_message(client: redis.Redis, names: Names) -> None:
    claim(client, names, "one", 1, to_isolate=20)
    claim(client, names, "one", 1, to_isolate=20)
    assert b"to_isolate" not in meta(client, names)
    claim(client, names, "two", 2, to_isolate=20)
    assert meta(client, names)[b"to_isolate"] == b"20"


def test_the_owner_of_a_released_partition_isolates_nothing(client: redis.Redis, names: Names) -> None:
    token = int(claim(client, names, "one", 1)[1])
    assert release(client, names, "one", {"0": token}) == 1
    claim(client, names, "two", 2, to_isolate=20)
    assert b"to_isolate" not in meta(client, names)


def test_a_slow_worker_does_not_take_a_partition_back_from_the_next_owner(client: redis.Redis, names: Names) -> None:
    """The worker got the partition, then was suspended until its lease had ended. Its claim arrives after the next owner's."""
    balance(client, names, "slow", lease_seconds=60, partitions=1)
    assigned = int(client.hget(names.since, "0") or 0)
    client.zadd(names.workers, {"slow": 1})
    held = balance(client, names, "next", lease_seconds=60, partitions=1).owned
    assert claim(client, names, "slow", assigned)[0] == b"superseded"
    assert balance(client, names, "next", lease_seconds=60, partitions=1).owned == held == leases_of(client, names, "next")


def test_a_group_that_lost_its_data_assigns_again_until_the_claim_is_accepted(client: redis.Redis, names: Names) -> None:
    """The server with the group's keys went back to older data, and its clock is behind. The partition's keys are on another server."""
    claim(client, names, "gone", 2**52)
    first = balance(client, names, "one", lease_seconds=60, partitions=1)
    assert first.owned.keys() == {"ingress"}
    second = balance(client, names, "one", lease_seconds=60, partitions=1)
    assert second.owned.keys() == {"0", "ingress"}
    assert meta(client, names)[b"since"] == b"%d" % (2**52 + 1)
    assert balance(client, names, "one", lease_seconds=60, partitions=1).owned == second.owned


def test_a_partition_whose_data_is_lost_is_claimed_again(client: redis.Redis, names: Names) -> None:
    before = balance(client, names, "one", lease_seconds=60, partitions=1).owned
    client.delete(names.meta("0"))
    after = balance(client, names, "one", lease_seconds=60, partitions=1).owned
    assert after["ingress"] == before["ingress"] and after["0"] > before["0"]


def test_a_release_that_did_not_reach_the_group_has_no_lasting_effect(client: redis.Redis, names: Names) -> None:
    held = balance(client, names, "one", lease_seconds=60, partitions=1).owned
    script("release").run(client, [names.meta("0"), names.isolation("0")], ["one", held["0"]])
    assert leases_of(client, names, "one").keys() == {"ingress"}
    balance(client, names, "one", lease_seconds=60, partitions=1)
    assert balance(client, names, "one", lease_seconds=60, partitions=1).owned["0"] > held["0"]


def test_a_released_partition_is_not_claimed_again_for_the_same_assignment(client: redis.Redis, names: Names) -> None:
    """The lease keeper reads the assignment, the loop releases the partition, and then the keeper's claim arrives."""
    held = balance(client, names, "one", lease_seconds=60, partitions=1).owned
    assigned = int(client.hget(names.since, "0") or 0)
    assert release(client, names, "one", {"0": held["0"]}) == 1
    assert claim(client, names, "one", assigned) == [b"superseded", b"%d" % (assigned + 1)]
    client.zrem(names.workers, "one")
    assert balance(client, names, "two", lease_seconds=60, partitions=1).owned["0"] > held["0"]
    assert b"takeovers" not in meta(client, names), "nobody died"
