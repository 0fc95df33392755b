"""Claim, renew and release leases; and N, which is stored with a group."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redis.client import PubSub

from celery_partitions.model.errors import SetupError
from celery_partitions.runtime.group import Group
from celery_partitions.store.leases import Share, balance, leases_of, release, remember_computations
from celery_partitions.store.names import INGRESS, Names
from celery_partitions.store.topology import agree_on_topology
from celery_partitions_config.settings import Settings
from tests.support.wait import wait_until


def look(
    client: redis.Redis, names: Names, worker: str, lease_seconds: float = 3600, pins: tuple[str, ...] = ()
) -> Share:
    return balance(client, names, worker, lease_seconds=lease_seconds, partitions=4, pins=pins)


@pytest.fixture
def changes(client: redis.Redis, names: Names) -> Iterator[PubSub]:
    """A subscription to the channel that announces changes of members and owners."""
    with client.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe(names.changed)
        subscription.get_message(timeout=60)
        yield subscription


def published(changes: PubSub) -> list[bytes]:
    """What was published since the last call. The test's own marker is the end."""
    changes_client = redis.Redis(connection_pool=changes.connection_pool)
    changes_client.publish("{partition}:changed", "END")
    found: list[bytes] = []
    while b"END" not in found:
        message = changes.get_message(timeout=60)
        found += [message["data"]] if message else []
    return found[:-1]


def test_the_first_worker_gets_everything_at_its_first_check(client: redis.Redis, names: Names) -> None:
    share = look(client, names, "one")
    assert share.owned.keys() == {"0", "1", "2", "3", INGRESS}
    assert (share.give_up, share.next_end_seconds) == ((), None)
    assert leases_of(client, names, "one") == share.owned


def test_a_worker_learns_when_the_first_lease_of_another_ends(client: redis.Redis, names: Names) -> None:
    look(client, names, "one", lease_seconds=30)
    look(client, names, "two", lease_seconds=20)
    end_seconds = look(client, names, "three").next_end_seconds
    assert end_seconds is not None and 10 < end_seconds <= 20


def test_a_lease_that_is_not_renewed_ends_by_the_servers_clock(client: redis.Redis, names: Names) -> None:
    before = look(client, names, "one", lease_seconds=0.05).owned
    share = wait_until(lambda: (s := look(client, names, "two")).owned and s)
    assert share.owned.keys() == before.keys() == {"0", "1", "2", "3", INGRESS}
    assert all(share.owned[partition] > token for partition, token in before.items())
    assert client.zrange(names.workers, 0, -1) == [b"two"]


def test_a_lease_that_is_renewed_does_not_end(client: redis.Redis, names: Names) -> None:
    look(client, names, "one", lease_seconds=0.05)
    look(client, names, "one")
    assert look(client, names, "two").owned == {}


def test_the_pins_of_a_dead_worker_are_removed(client: redis.Redis, names: Names) -> None:
    look(client, names, "one", pins=("1", "3"))
    client.zadd(names.workers, {"one": 1})
    assert look(client, names, "two").owned.keys() == {"0", "1", "2", "3", INGRESS}
    assert not client.exists(names.pins)


def test_excess_partitions_are_reported_and_kept_until_they_are_released(client: redis.Redis, names: Names) -> None:
    held = look(client, names, "one").owned
    look(client, names, "two")
    share = look(client, names, "one")
    assert share.owned == held
    assert len(share.give_up) == 2
    assert look(client, names, "two").owned == {}
    release(client, names, "one", {partition: held[partition] for partition in share.give_up})
    assert set(look(client, names, "two").owned) == set(share.give_up)


def test_a_release_affects_only_leases_that_the_worker_still_holds(client: redis.Redis, names: Names) -> None:
    held = look(client, names, "one").owned
    assert release(client, names, "two", held) == 0
    assert release(client, names, "one", {"0": held["0"] + 1, "1": held["1"] - 1}) == 0
    assert release(client, names, "one", {"0": held["0"], "1": held["1"]}) == 2
    assert release(client, names, "one", {"0": held["0"], "1": held["1"]}) == 0
    assert leases_of(client, names, "one").keys() == {"2", "3", INGRESS}


def test_a_release_increases_the_token(client: redis.Redis, names: Names) -> None:
    held = look(client, names, "one").owned
    release(client, names, "one", {"0": held["0"]})
    assert client.hget(names.meta("0"), "token") == b"%d" % (held["0"] + 1)
    assert look(client, names, "one").owned["0"] > held["0"] + 1


def test_a_worker_that_left_is_no_longer_a_member_and_owns_nothing(client: redis.Redis, names: Names) -> None:
    held = look(client, names, "one", pins=("2",)).owned
    assert release(client, names, "one", held, leave=True) == 1
    assert not client.exists(names.workers, names.pins, names.owners)
    assert release(client, names, "one", {}, leave=True) == 0


def test_joins_releases_leaves_and_detected_deaths_are_published_and_renewals_are_not(
    client: redis.Redis, names: Names, changes: PubSub
) -> None:
    held = look(client, names, "one").owned
    assert published(changes) == [b"one"]
    look(client, names, "one")
    assert published(changes) == []
    release(client, names, "one", {"0": held["0"]})
    assert published(changes) == [b"one"]
    release(client, names, "one", {"0": held["0"]})
    assert published(changes) == []
    release(client, names, "one", {}, leave=True)
    assert published(changes) == [b"one"]
    client.zadd(names.workers, {"dead": 1})
    look(client, names, "two")
    client.zadd(names.workers, {"dead": 1})
    look(client, names, "two")
    assert published(changes) == [b"two", b"two"]


def test_since_is_when_the_owner_took_the_partition(client: redis.Redis, names: Names) -> None:
    look(client, names, "one")
    seconds, micros = client.time()  # type: ignore[misc]
    took = int(client.hget(names.since, "2") or 0)
    assert 0 <= seconds * 1_000_000 + micros - took < 60_000_000
    look(client, names, "one")
    assert client.hget(names.since, "2") == b"%d" % took


def test_two_groups_on_one_server_are_independent(client: redis.Redis, names: Names) -> None:
    look(client, names, "one")
    assert len(look(client, Names("other"), "two").owned) == 5
    assert len(look(client, Names("partition", prefix="app:"), "three").owned) == 5


def test_the_first_process_sets_n_and_the_same_n_is_accepted(client: redis.Redis, names: Names) -> None:
    agree_on_topology(client, names, 8)
    agree_on_topology(client, names, 8)
    assert client.hget(names.group_meta, "partitions") == b"8"


def test_another_n_is_refused_with_both_numbers_and_the_fix(client: redis.Redis, names: Names) -> None:
    agree_on_topology(client, names, 8)
    with pytest.raises(SetupError, match=r"has 8 partitions .* PARTITIONS=12\. Start it with PARTITIONS=8"):
        agree_on_topology(client, names, 12)
    assert client.hget(names.group_meta, "partitions") == b"8"
    agree_on_topology(client, Names("other"), 12)


def test_a_group_refuses_everything_until_n_matches(client: redis.Redis, names: Names, settings: Settings) -> None:
    agree_on_topology(client, names, 8)
    group = Group(settings)
    for use in (group.check, group.status, lambda: group.states, lambda: group.dead_letters):
        with pytest.raises(SetupError, match="8"):
            use()
    client.hset(names.group_meta, "partitions", settings.partitions)
    group.check()
    group.client.close()


def test_a_producer_without_permission_to_read_n_uses_its_own(
    client: redis.Redis, redis_url: str, settings: Settings
) -> None:
    client.execute_command("ACL", "SETUSER", "pusher", "on", ">secret", "~*", "&*", "-@all", "+lpush", "+select")
    try:
        group = Group(Settings(redis_url=redis_url.replace("redis://", "redis://pusher:secret@")))
        group.check()
        group.client.lpush("partition.0", "m")
        group.client.close()
    finally:
        client.execute_command("ACL", "DELUSER", "pusher")


def test_computations_are_stored_for_processes_without_their_code(client: redis.Redis, names: Names) -> None:
    remember_computations(client, names, [])
    assert not client.exists(names.group_meta)
    remember_computations(client, names, ["one", "two words"])
    remember_computations(client, names, ["one"])
    assert client.hkeys(names.group_meta) == [b"computation:one", b"computation:two words"]


def test_a_token_of_a_server_that_lost_its_data_is_never_issued_again(client: redis.Redis, names: Names) -> None:
    """Neither by an empty server, nor by one that went back to data from before the token was issued."""
    first = look(client, names, "one").owned
    client.flushdb()
    second = look(client, names, "two").owned
    assert second.keys() == first.keys() and not set(second.values()) & set(first.values())

    snapshot = client.dump(names.meta("0"))
    assert release(client, names, "two", {"0": second["0"]}) == 1
    third = look(client, names, "three", pins=("0",)).owned["0"]
    client.restore(names.meta("0"), 0, snapshot, replace=True)  # type: ignore[arg-type]
    client.delete(names.owners)
    assert look(client, names, "four", pins=("0",)).owned["0"] > third


def test_a_token_grows_even_if_the_clock_goes_back(client: redis.Redis, names: Names) -> None:
    client.hset(names.meta("0"), "token", 2**52)
    assert look(client, names, "one").owned["0"] == 2**52 + 1
