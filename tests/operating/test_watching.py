"""Many who look at a group share one read."""

from __future__ import annotations

import redis

from config.settings import Settings
from tasks.operating.group import Group
from tasks.operating.watching import Watch
from tasks.store.names import Names


class Clock:
    """A clock that stands until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_those_who_look_within_the_interval_see_the_same(settings: Settings, client: redis.Redis) -> None:
    clock = Clock()
    watch = Watch(Group(settings), clock=clock)
    first = watch.look()
    client.lpush("partition.0", "a")
    clock.now += 1.9
    assert watch.look() is first
    clock.now += 0.2
    assert watch.look().units[0].status.length == 1
    assert watch.to_json()["totals"]["waiting"] == 1


def test_states_are_weighed_now_and_then(settings: Settings, client: redis.Redis, names: Names) -> None:
    clock = Clock()
    watch = Watch(Group(settings), clock=clock)
    client.hset(names.facts_of_group, "computation:one", 1)

    def weight() -> object:
        return watch.to_json()["partitions"][0]["state_bytes"]

    assert weight() == 0
    client.hset(names.states("0", "one"), "k", "x" * 1000)
    clock.now += 29
    assert weight() == 0, "not yet again"
    clock.now += 2
    assert weight() > 1000  # type: ignore[operator]
