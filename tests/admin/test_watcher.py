"""Many viewers of a group share one read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import redis

from celery_partitions.admin.watcher import Watcher
from celery_partitions.runtime.group import Group
from celery_partitions.store.names import Names
from celery_partitions_config.settings import Settings
from tests.support.proxy import Proxy


class Clock:
    """A clock that moves only when the test moves it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_reads_within_the_interval_return_the_same_overview(settings: Settings, client: redis.Redis) -> None:
    clock = Clock()
    watch = Watcher(Group(settings), clock=clock)
    first = watch.look()
    client.lpush("partition.0", "a")
    clock.now += 1.9
    assert watch.look() is first
    clock.now += 0.2
    assert watch.look().partitions[0].status.length == 1
    assert watch.to_json()["totals"]["waiting"] == 1


def test_after_a_change_during_a_slow_read_the_next_look_reads_again(proxy: Proxy, redis_url: str) -> None:
    """Flower calls `invalidate` in its event loop, which must not block on Redis."""
    looks: SimpleQueue[None] = SimpleQueue()

    def clock() -> float:
        looks.put(None)
        return 1000.0

    watch = Watcher(Group(Settings(redis_url=proxy.url())), clock=clock)
    with ThreadPoolExecutor() as pool:
        first = watch.look()
        watch.invalidate()
        looks.get()
        proxy.freeze()
        slow = pool.submit(watch.look)
        looks.get(timeout=60)
        invalidated = pool.submit(watch.invalidate)
        try:
            invalidated.result(timeout=1)
        finally:
            proxy.thaw()
        assert slow.result() is not first
        assert watch.look() is not slow.result(), "it started before the change"
        assert watch.look() is watch.look()


def test_the_size_of_the_states_is_measured_at_intervals(settings: Settings, client: redis.Redis, names: Names) -> None:
    clock = Clock()
    watch = Watcher(Group(settings), clock=clock)
    client.hset(names.group_meta, "computation:one", 1)

    def weight() -> object:
        return watch.to_json()["partitions"][0]["state_bytes"]

    states = names.states("0", "one")
    client.hset(states, "0", "x" * 1000)
    weighed = weight()
    assert isinstance(weighed, int) and weighed > 1000
    client.hset(states, "0", "x" * 9000)
    clock.now += 29
    assert weight() == weighed, "not yet measured again"
    clock.now += 2
    weighed_again = weight()
    assert isinstance(weighed_again, int) and weighed_again > 9000


def test_the_size_of_the_states_is_measured_sooner_if_keys_multiply(settings: Settings, client: redis.Redis, names: Names) -> None:
    clock = Clock()
    watch = Watcher(Group(settings), clock=clock)
    client.hset(names.group_meta, "computation:one", 1)

    def weight() -> object:
        clock.now += 3
        return watch.to_json()["partitions"][0]["state_bytes"]

    assert weight() == 0
    client.hset(names.states("0", "one"), mapping={str(number): "x" * 100 for number in range(10)})
    assert weight() == 0, "the growth is noticed"
    weighed = weight()
    assert isinstance(weighed, int) and weighed > 1000
    client.hset(names.states("0", "one"), mapping={str(number): "x" * 100 for number in range(20)})
    weight()
    assert weight() == weighed, "exactly twice as many is not enough"
