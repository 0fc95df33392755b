"""Claim, renew, release; and N, which a group keeps."""

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
    """What is published when membership or ownership changed."""
    with client.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe(names.changed)
        subscription.get_message(timeout=5)
        yield subscription


def said(changes: PubSub) -> list[bytes]:
    """What was published since the last call (a marker of our own is the end)."""
    changes_client = redis.Redis(connection_pool=changes.connection_pool)
    changes_client.publish("{partition}:changed", "END")
    found: list[bytes] = []
    while b"END" not in found:
        message = changes.get_message(timeout=5)
        found += [message["data"]] if message else []
    return found[:-1]


def test_the_first_worker_gets_everything_at_its_first_look(client: redis.Redis, names: Names) -> None:
    share = look(client, names, "one")
    assert share.owned.keys() == {"0", "1", "2", "3", INGRESS}
    assert (share.give_up, share.next_end_seconds) == ((), None)
    assert leases_of(client, names, "one") == share.owned


def test_a_worker_learns_when_the_first_lease_of_another_ends(client: redis.Redis, names: Names) -> None:
    look(client, names, "one", lease_seconds=30)
    look(client, names, "two", lease_seconds=20)
    told = look(client, names, "three").next_end_seconds
    assert told is not None and 10 < told <= 20


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


def test_a_dead_worker_takes_its_pins_with_it(client: redis.Redis, names: Names) -> None:
    look(client, names, "one", pins=("1", "3"))
    client.zadd(names.workers, {"one": 1})
    assert look(client, names, "two").owned.keys() == {"0", "1", "2", "3", INGRESS}
    assert not client.exists(names.pins)


def test_what_is_too_much_is_told_and_kept_until_it_is_released(client: redis.Redis, names: Names) -> None:
    held = look(client, names, "one").owned
    look(client, names, "two")
    share = look(client, names, "one")
    assert share.owned == held
    assert len(share.give_up) == 2
    assert look(client, names, "two").owned == {}
    release(client, names, "one", {partition: held[partition] for partition in share.give_up})
    assert set(look(client, names, "two").owned) == set(share.give_up)


def test_a_release_counts_only_leases_that_are_still_the_workers(client: redis.Redis, names: Names) -> None:
    held = look(client, names, "one").owned
    assert release(client, names, "two", held) == 0
    assert release(client, names, "one", {"0": held["0"] + 1, "1": held["1"] - 1}) == 0
    assert release(client, names, "one", {"0": held["0"], "1": held["1"]}) == 2
    assert release(client, names, "one", {"0": held["0"], "1": held["1"]}) == 0
    assert leases_of(client, names, "one").keys() == {"2", "3", INGRESS}


def test_a_release_makes_the_token_grow(client: redis.Redis, names: Names) -> None:
    held = look(client, names, "one").owned
    release(client, names, "one", {"0": held["0"]})
    assert client.hget(names.meta("0"), "token") == b"%d" % (held["0"] + 1)
    assert look(client, names, "one").owned["0"] > held["0"] + 1


def test_who_leaves_is_no_member_any_more_and_holds_nothing(client: redis.Redis, names: Names) -> None:
    held = look(client, names, "one", pins=("2",)).owned
    assert release(client, names, "one", held, leave=True) == 1
    assert not client.exists(names.workers, names.pins, names.owners)
    assert release(client, names, "one", {}, leave=True) == 0


def test_joins_releases_leaves_and_found_deaths_are_published_and_renewals_are_not(
    client: redis.Redis, names: Names, changes: PubSub
) -> None:
    held = look(client, names, "one").owned
    assert said(changes) == [b"one"]
    look(client, names, "one")
    assert said(changes) == []
    release(client, names, "one", {"0": held["0"]})
    assert said(changes) == [b"one"]
    release(client, names, "one", {"0": held["0"]})
    assert said(changes) == []
    release(client, names, "one", {}, leave=True)
    assert said(changes) == [b"one"]
    client.zadd(names.workers, {"dead": 1})
    look(client, names, "two")
    client.zadd(names.workers, {"dead": 1})
    look(client, names, "two")
    assert said(changes) == [b"two", b"two"]


def test_since_says_when_the_owner_took_the_partition(client: redis.Redis, names: Names) -> None:
    look(client, names, "one")
    seconds, micros = client.time()  # type: ignore[misc]
    took = int(client.hget(names.since, "2") or 0)
    assert 0 <= seconds * 1_000_000 + micros - took < 60_000_000
    look(client, names, "one")
    assert client.hget(names.since, "2") == b"%d" % took


def test_two_groups_in_one_server_know_nothing_of_each_other(client: redis.Redis, names: Names) -> None:
    look(client, names, "one")
    assert len(look(client, Names("other"), "two").owned) == 5
    assert len(look(client, Names("partition", prefix="app:"), "three").owned) == 5


def test_the_first_process_fixes_n_and_the_same_n_is_welcome(client: redis.Redis, names: Names) -> None:
    agree_on_topology(client, names, 8)
    agree_on_topology(client, names, 8)
    assert client.hget(names.group_meta, "partitions") == b"8"


def test_another_n_is_refused_with_both_numbers_and_the_mend(client: redis.Redis, names: Names) -> None:
    agree_on_topology(client, names, 8)
    with pytest.raises(SetupError, match=r"has 8 partitions .* PARTITIONS=12\. Start it with PARTITIONS=8"):
        agree_on_topology(client, names, 12)
    assert client.hget(names.group_meta, "partitions") == b"8"
    agree_on_topology(client, Names("other"), 12)


def test_a_group_refuses_everything_until_n_fits(client: redis.Redis, names: Names, settings: Settings) -> None:
    agree_on_topology(client, names, 8)
    group = Group(settings)
    for use in (group.check, group.status, lambda: group.states, lambda: group.dead_letters):
        with pytest.raises(SetupError, match="8"):
            use()
    client.hset(names.group_meta, "partitions", settings.partitions)
    group.check()
    group.client.close()


def test_a_producer_that_may_only_push_is_trusted_with_n(
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


def test_computations_are_remembered_for_those_who_have_not_their_code(client: redis.Redis, names: Names) -> None:
    remember_computations(client, names, [])
    assert not client.exists(names.group_meta)
    remember_computations(client, names, ["one", "two words"])
    remember_computations(client, names, ["one"])
    assert client.hkeys(names.group_meta) == [b"computation:one", b"computation:two words"]


def test_a_token_of_a_server_that_lost_its_data_is_never_given_again(client: redis.Redis, names: Names) -> None:
    """Neither by one that is empty, nor by one that went back to what it was before the token was given."""
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


def test_a_token_grows_though_the_clock_went_back(client: redis.Redis, names: Names) -> None:
    client.hset(names.meta("0"), "token", 2**52)
    assert look(client, names, "one").owned["0"] == 2**52 + 1
