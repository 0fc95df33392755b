"""Under load: workers die, slots move, a primary is killed and its replica takes over, a server is away. Nothing is lost, nothing twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from celery_partitions.admin.overview import read_overview
from tests.fundamentals.application import Sale, Step, record, sell
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup, live_groups
from tests.support.cluster import RedisCluster
from tests.support.server import RedisServer
from tests.support.wait import wait_until

PARTITIONS = 6
LEASE_SECONDS = 2
ENV = {"PARTITIONS": PARTITIONS, "PARTITIONS_LEASE_SECONDS": LEASE_SECONDS, "PARTITIONS_REDIS_TIMEOUT_SECONDS": 3}
SOURCES, COUNT = 4, 400


@pytest.fixture
def make_live(tmp_path: Path) -> Iterator[Callable[[RedisCluster], LiveGroup]]:
    with RedisServer() as control, live_groups(tmp_path, **ENV, PARTITIONS_GROUP="faults") as make:
        yield lambda cluster: make(control.url(), PARTITIONS_URL=cluster.url())


class Traffic:
    """Sends numbers to some keys, whose computation sends them on to other keys. Waits for the servers as long as it takes."""

    def __init__(self, live: LiveGroup, name: str) -> None:
        self.live, self.name = live, name
        self.halfway = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def totals(self) -> list[str]:
        return [f"{self.name}-{number}-total" for number in range(SOURCES)]

    def _send(self) -> None:
        for number in range(COUNT):
            if number == COUNT // 2:
                self.halfway.set()
            self.live.send(sell, [Sale(f"{self.name}-{one}", number, fails=False, forward_to=total) for one, total in enumerate(self.totals())])

    def check(self) -> None:
        """Each number arrived once, in order."""
        self._thread.join()
        for total in self.totals():
            wait_until(lambda total=total: len(self.live.numbers_of(sell, total)) >= COUNT, PATIENCE_SECONDS, message=f"messages of {total} are missing")
            assert self.live.numbers_of(sell, total) == list(range(COUNT))


def test_slots_move_and_workers_die_under_load(cluster: RedisCluster, make_live: Callable[[RedisCluster], LiveGroup]) -> None:
    live = make_live(cluster)
    workers = live.start_workers(2)
    traffic = Traffic(live, "moving")
    for partition in range(PARTITIONS):
        slot = key_slot(live.names.queue(str(partition)).encode())
        at = next(server for server in cluster.primaries if server.port == int(live.client.address(live.names.queue(str(partition))).rpartition(":")[2]))
        others = [server for server in cluster.primaries if server is not at]
        cluster.move_slot(slot, at, others[partition % 2])
        live.client.look_again()
        if partition == 2:
            workers[0].kill()
            live.start_worker()
    traffic.check()


def test_a_replica_takes_over_under_load(make_live: Callable[[RedisCluster], LiveGroup]) -> None:
    with RedisCluster(replicas=1) as cluster:
        live = make_live(cluster)
        live.start_workers(2)
        keys = [f"key-{number}" for number in range(30)]
        live.send(record, [Step(key, 1) for key in keys])
        wait_until(lambda: all(live.numbers_of(record, key) == [1] for key in keys), PATIENCE_SECONDS)
        wait_until(lambda: cluster.replicas_have_all(), message="the replicas lag")
        gone = cluster.primaries[0]
        lost = [key for key in keys if live.client.address(live.names.queue(str(live.group.topology.partition_of(key)))).endswith(f":{gone.port}")]
        others = [key for key in keys if key not in lost]
        assert lost
        assert others
        gone.kill()
        live.send(record, [Step(key, 2) for key in others])  # partitions elsewhere go on
        wait_until(lambda: all(live.numbers_of(record, key) == [1, 2] for key in others), PATIENCE_SECONDS)
        wait_until(lambda: cluster.serves_all(cluster.primaries[1]), PATIENCE_SECONDS, message="no replica took over")
        for key in lost:
            wait_until(lambda key=key: sent(live, Step(key, 2)), PATIENCE_SECONDS)
        wait_until(lambda: all(live.numbers_of(record, key) == [1, 2] for key in keys), PATIENCE_SECONDS)


def sent(live: LiveGroup, step: Step) -> bool:
    try:
        live.send(record, [step])
    except Exception:
        return False
    return True


def test_a_server_is_away_and_what_is_sent_to_it_waits(make_live: Callable[[RedisCluster], LiveGroup]) -> None:
    with RedisCluster(appendonly="yes") as cluster:
        live = make_live(cluster)
        live.start_workers(2)
        by_port = {server.port: server for server in cluster.primaries}
        place = {key: by_port[int(live.client.address(live.names.queue(str(live.group.topology.partition_of(key)))).rpartition(":")[2])] for key in (f"k{n}-total" for n in range(30))}
        source, target = "k0-total", next(key for key in place if place[key] is not place["k0-total"])
        place[target].stop()
        live.send(sell, [Sale(source, number, fails=False, forward_to=target) for number in range(50)])
        wait_until(lambda: live.numbers_of(sell, source) == list(range(50)), PATIENCE_SECONDS, message="the source's partition waits, too")
        away = {row.queue for row in live.group.status() if row.away}
        assert away == {row.queue for row in live.group.status() if row.server.endswith(f":{place[target].port}")}
        assert {one.status.queue for one in read_overview(live.group).partitions if one.status.away} == away
        assert all(row.length == 0 for row in live.group.status())
        place[target].start()
        wait_until(lambda: sent_on(live, target), PATIENCE_SECONDS, message="what was sent to the server did not arrive")
        assert live.numbers_of(sell, target) == list(range(50))


def test_a_silent_server_costs_no_lease_on_the_others(make_live: Callable[[RedisCluster], LiveGroup]) -> None:
    with RedisCluster() as cluster:
        live = make_live(cluster)
        live.start_workers(2)
        silent = cluster.primaries[0]
        keys = [f"key-{number}" for number in range(30)]
        others = [key for key in keys if not live.client.address(live.names.queue(str(live.group.topology.partition_of(key)))).endswith(f":{silent.port}")]
        live.send(record, [Step(key, 1) for key in keys])
        wait_until(lambda: all(live.numbers_of(record, key) == [1] for key in keys), PATIENCE_SECONDS)
        silent.pause()
        number, until = 2, time.monotonic() + 3 * LEASE_SECONDS
        while time.monotonic() < until:
            number += 1
            live.send(record, [Step(key, number) for key in others])
            wait_until(lambda number=number: all(live.numbers_of(record, key)[-1] == number for key in others), PATIENCE_SECONDS)
        silent.resume()
        for key in set(keys) - set(others):
            wait_until(lambda key=key: sent(live, Step(key, 2)), PATIENCE_SECONDS)
        wait_until(lambda: all(live.numbers_of(record, key)[-1] in (2, number) for key in keys), PATIENCE_SECONDS)
        assert not any(one.takeovers for one in read_overview(live.group).partitions)


def sent_on(live: LiveGroup, target: str) -> bool:
    try:
        return len(live.numbers_of(sell, target)) >= 50
    except Exception:  # the server is not back yet
        return False
