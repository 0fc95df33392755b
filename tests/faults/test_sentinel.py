"""Workers and producers know only the sentinels. The master dies, a replica is promoted, and work continues there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.faults.traffic import Traffic
from tests.fundamentals.live import LiveGroup
from tests.support.sentinel import running_sentinel
from tests.support.server import RedisServer
from tests.support.wait import wait_until

Factory = Callable[..., RedisServer]


class Watched:
    """A master and its replica, watched by their own sentinel."""

    def __init__(self, master: RedisServer, replica: RedisServer, sentinel: redis.Redis, port: int) -> None:
        self.master, self.replica, self.sentinel = master, replica, sentinel
        self.url = f"sentinel://127.0.0.1:{port}/0"

    def wait_in_sync(self) -> None:
        """Wait until the replica has everything that the master has now. The rest would be lost with the master."""
        with self.master.client() as master, self.replica.client() as replica:
            offset = master.info("replication")["master_repl_offset"]
            wait_until(lambda: replica.info("replication").get("slave_repl_offset", 0) >= offset)

    def wait_promoted(self) -> None:
        def promoted() -> bool:
            found: list[bytes] = self.sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "prices")
            with self.replica.client() as client:
                return int(found[1]) == self.replica.port and client.info("replication")["role"] == "master"

        wait_until(promoted, message="no replica was promoted")


@pytest.fixture
def watched(server_factory: Factory, tmp_path: Path) -> Iterator[Watched]:
    master = server_factory(appendonly=True)
    replica = server_factory(appendonly=True, config={"replicaof": f"{master.host} {master.port}"})
    options = ("down-after-milliseconds prices 500", "failover-timeout prices 5000")
    with running_sentinel(master, tmp_path, *options, until=("REPLICAS",)) as (sentinel, port):
        yield Watched(master, replica, sentinel, port)


def answers(client: redis.Redis) -> bool:
    """A client of the sentinels that was connected to the old master asks the sentinels again."""
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False


def test_a_failover(watched: Watched, make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(watched.url, PARTITIONS_REDIS_SENTINEL_MASTER="prices")
    traffic = Traffic(live)
    workers = live.start_workers(2)
    traffic.send(1500)
    watched.wait_in_sync()  # all messages; commits that are not on the replica are lost with the master, and are repeated
    traffic.wait_processed(200)
    watched.master.kill()
    watched.wait_promoted()
    wait_until(lambda: answers(live.client))
    traffic.send(100)
    traffic.check()
    assert all(worker.running for worker in workers)
