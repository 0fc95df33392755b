"""The number of partitions changes while messages flow between the servers: workers die at each step, slots move, an operator changes their mind."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
from redis.crc import key_slot

from celery_partitions import SetupError
from celery_partitions.admin.resize import Resize, read_progress
from celery_partitions.store.topology import read_topology
from tests.faults import engines
from tests.fundamentals.application import Sale, sell
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.cluster import RedisCluster
from tests.support.server import RedisServer
from tests.support.wait import wait_until

PARTITIONS = 8
#: Keys, each with another one to which its numbers go.
KEYS = 16
ENV = {
    "PARTITIONS": PARTITIONS,
    "PARTITIONS_LEASE_SECONDS": 2,
    "PARTITIONS_REDIS_TIMEOUT_SECONDS": 3,
    "PARTITIONS_RETRY_BACKOFF_SECONDS": 0.2,
}
_numbers = count()


@pytest.fixture
def make_live(tmp_path: Path) -> Iterator[Callable[[str], LiveGroup]]:
    """Make a group on other servers."""
    with ExitStack() as stack:
        made: list[LiveGroup] = []

        def make(url: str) -> LiveGroup:
            control = stack.enter_context(RedisServer())
            env = {**ENV, "PARTITIONS_GROUP": f"resized{next(_numbers)}", "PARTITIONS_URL": url}
            made.append(stack.enter_context(LiveGroup(control.url(), tmp_path, **env)))
            return made[-1]

        yield make
        for live in made:
            live.print_logs()


class Traffic:
    """A producer that knows nothing of the resize but what it reads in Redis. Some messages fail at first, so that their keys are parked."""

    def __init__(self, live: LiveGroup) -> None:
        self.live, self.sent, self.ending = live, 0, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def send(self, messages: int) -> None:
        """Send this many to each key."""
        for number in range(self.sent, self.sent + messages):
            sales = [Sale(str(key), number, fails=random.random() < 0.003, forward_to=f"{key}-total") for key in range(KEYS)]
            self.live.send(sell, sales)
        self.sent += messages

    def _run(self) -> None:
        while not self.ending.wait(0.05):
            self.send(1)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._thread.join()

    def applied(self, key: str) -> list[int]:
        learn(self.live)
        return self.live.numbers_of(sell, key)

    def wait_more(self) -> None:
        """Wait until what has been sent so far has arrived at one key, and some more."""
        number = self.sent + 10
        wait_until(lambda: len(self.applied("0-total")) >= number, PATIENCE_SECONDS, message=f"fewer than {number} were applied")

    def check(self) -> None:
        """Each number arrived once, in order, at each key."""
        for key in [one for number in range(KEYS) for one in (f"{number}", f"{number}-total")]:
            wait_until(lambda key=key: len(self.applied(key)) >= self.sent, PATIENCE_SECONDS, message=f"messages of {key} are missing")  # type: ignore[misc]
            assert self.applied(key) == list(range(self.sent))
        self.live.wait_drained()
        assert self.live.processed() == 2 * KEYS * self.sent
        assert self.live.dead_letters() == []


def learn(live: LiveGroup) -> None:
    live.group.follow(read_topology(live.client, live.names, PARTITIONS))


def resize_of(live: LiveGroup) -> Resize:
    live.group.check()
    wait_until(lambda: live.client.hlen(live.names.epochs), PATIENCE_SECONDS, message="no worker follows resizes")
    return Resize(live.client, live.names, PARTITIONS)


def wait_moved(live: LiveGroup) -> None:
    wait_until(lambda: read_progress(live.client, live.names, PARTITIONS).state != "moving", PATIENCE_SECONDS, message="keys have not moved")


def finish(live: LiveGroup) -> None:
    """Producers know the new number within `SETTLED_SECONDS`."""
    wait_until(lambda: resize_of(live).finish(by="test", said="all have changed"), PATIENCE_SECONDS, message="not finished")


def move_a_slot(live: LiveGroup, cluster: RedisCluster, partition: int) -> None:
    slot = key_slot(live.names.queue(str(partition)).encode())
    at = next(server for server in cluster.primaries if server.port == int(live.client.address(live.names.queue(str(partition))).rpartition(":")[2]))  # type: ignore[attr-defined]
    cluster.move_slot(slot, at, next(server for server in cluster.primaries if server is not at))


def test_there_and_back_while_workers_die_and_slots_move(cluster: RedisCluster, make_live: Callable[[str], LiveGroup]) -> None:
    live = make_live(cluster.url())
    live.start_workers(2)
    resize, traffic = resize_of(live), Traffic(live)
    with traffic:
        for number in (2 * PARTITIONS, PARTITIONS):
            traffic.wait_more()
            resize.begin(number, by="test")
            move_a_slot(live, cluster, 0)
            next(worker for worker in live.workers if worker.running).kill()
            live.start_worker()
            move_a_slot(live, cluster, PARTITIONS)
            wait_moved(live)
            traffic.wait_more()
            finish(live)
    traffic.check()
    assert live.group.topology.partitions == PARTITIONS


def test_between_plain_servers(make_live: Callable[[str], LiveGroup]) -> None:
    with RedisServer() as one, RedisServer() as other:
        live = make_live(f"redis://{one.host}:{one.port},{other.host}:{other.port}")
        live.start_workers(2)
        resize, traffic = resize_of(live), Traffic(live)
        with traffic:
            for number in (PARTITIONS // 2, PARTITIONS):
                traffic.wait_more()
                resize.begin(number, by="test")
                wait_moved(live)
                traffic.wait_more()
                finish(live)
        traffic.check()


PLACES = [
    "_follow:before:2",
    "_note:after:3",  # a partition has stopped, or has no more keys to move
    "_write:before:2",
    "_write:after:2",  # keys have left, and are in the outbox
    "_deliver:after:4",  # keys have arrived, and are still in the outbox
    "trim:after:2",
    "_open:before:2",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [2 * PARTITIONS, PARTITIONS // 2])
def test_killed_at_each_step(cluster: RedisCluster, make_live: Callable[[str], LiveGroup], place: str, number: int) -> None:
    live, traffic = make_live(cluster.url()), None
    live.start_worker(module=engines.__name__, DIE_AT=f"{place}:resizing").wait_ready()
    traffic = Traffic(live)
    traffic.send(20)
    resize_of(live).begin(number, by="test")
    traffic.send(10)
    assert live.workers[0].wait(timeout=PATIENCE_SECONDS) == -signal.SIGKILL
    live.start_worker()
    traffic.send(10)
    wait_moved(live)
    learn(live)
    traffic.send(10)
    traffic.check()


def test_undone_in_the_middle(cluster: RedisCluster, make_live: Callable[[str], LiveGroup]) -> None:
    live = make_live(cluster.url())
    live.start_worker(module=engines.__name__, DIE_AT="_write:after:5:resizing").wait_ready()
    resize, traffic = resize_of(live), Traffic(live)
    traffic.send(20)
    resize.begin(2 * PARTITIONS, by="test")
    traffic.send(20)
    assert live.workers[0].wait(timeout=PATIENCE_SECONDS) == -signal.SIGKILL
    resize.abort(by="test")
    with pytest.raises(SetupError, match="already"):
        resize.abort(by="test")
    live.start_workers(2)
    with traffic:
        traffic.wait_more()
        wait_moved(live)
        finish(live)
    traffic.check()
    assert live.group.topology.partitions == PARTITIONS


def test_what_cannot_be_undone_is_refused(cluster: RedisCluster, make_live: Callable[[str], LiveGroup]) -> None:
    live = make_live(cluster.url())
    live.start_workers(1)
    resize = resize_of(live)
    resize.begin(PARTITIONS // 2, by="test")
    with pytest.raises(SetupError, match="to fewer partitions cannot be undone"):
        resize.abort(by="test")
    wait_moved(live)
    finish(live)
    resize.begin(PARTITIONS, by="test")
    wait_moved(live)
    with pytest.raises(SetupError, match="all keys have moved already"):
        resize.abort(by="test")
