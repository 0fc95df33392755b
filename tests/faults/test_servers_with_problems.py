"""The server is slow, loads its data, or is a replica for a while. Workers wait, log it once, and then continue without help."""

from __future__ import annotations

import threading
from collections.abc import Callable

import redis

from tests.faults.traffic import Traffic
from tests.fundamentals.live import LiveGroup
from tests.support.proxy import Proxy
from tests.support.server import RedisServer
from tests.support.wait import wait_until
from tests.support.worker import WorkerProcess

MakeLive = Callable[..., LiveGroup]
Factory = Callable[..., RedisServer]

#: Log messages of the loop: when the server cannot be used, and when it can again.
LOST, FOUND = "partitions: Redis error (", "partitions: Redis works again"


def assert_logged_once(workers: list[WorkerProcess]) -> None:
    """Each worker logged once that it waits and once that it continues, and never exited."""
    for worker in workers:
        assert worker.running
        wait_until(lambda: FOUND in worker.log(), message="the worker does not log that it continues")  # noqa: B023
        assert (worker.log().count(LOST), worker.log().count(FOUND)) == (1, 1), worker.log_tail()


def test_slow(live: LiveGroup, proxy: Proxy) -> None:
    """Each answer takes almost half a lease. A renewal asks twice."""
    traffic = Traffic(live)
    workers = live.start_workers(2, REDIS_URL=proxy.url())
    traffic.send(300)
    traffic.wait_processed(20)
    proxy.delay_seconds = 0.4
    traffic.wait_processed(150)
    proxy.delay_seconds = 0
    traffic.check()
    assert all(worker.running and LOST not in worker.log() for worker in workers)


def test_slower_than_the_timeout_of_a_reply(live: LiveGroup, proxy: Proxy) -> None:
    """Commits are written, but sent again because their answers are late."""
    traffic = Traffic(live)
    workers = live.start_workers(2, REDIS_URL=proxy.url(), PARTITIONS_REDIS_TIMEOUT_SECONDS=0.3)
    traffic.send(600)
    traffic.wait_processed(50)
    proxy.delay_seconds = 0.8
    for worker in workers:
        wait_until(lambda: LOST in worker.log(), message="not noticed")  # noqa: B023
    proxy.delay_seconds = 0
    traffic.check()
    assert all(worker.running for worker in workers)


def test_loading_its_data(server_factory: Factory, make_live: MakeLive) -> None:
    """A server that loads a large file answers LOADING to every command until it is done."""
    slowly = {"key-load-delay": "150"}  # µs; it serves its clients once in 1,024 commands
    server = server_factory(appendonly=True, config=slowly)
    live = make_live(server.url())
    traffic = Traffic(live)
    workers = live.start_workers(2)
    traffic.send(1500)
    traffic.wait_processed(300)
    with live.client.pipeline(transaction=False) as pipe:
        for number in range(10_000):
            pipe.set(f"other-{number}", "x" * 100)
        pipe.execute()
    server.kill()
    starting = threading.Thread(target=server.start)
    starting.start()
    wait_until(lambda: is_loading(server), every=0.01, message="the server was never seen loading")
    starting.join()
    traffic.check()
    assert_logged_once(workers)


def is_loading(server: RedisServer) -> bool:
    try:
        with server.client(socket_timeout=1.0) as client:
            client.get("anything")
    except (redis.ConnectionError, redis.TimeoutError) as error:
        return "is loading" in str(error)
    return False


def test_a_replica_for_a_while(server_factory: Factory, make_live: MakeLive) -> None:
    """A failover turns the server of REDIS_URL into a read-only replica, and later back into the master. Messages that
    the other server received in between are there."""
    server, other = server_factory(appendonly=True), server_factory(appendonly=True)
    live, elsewhere = make_live(server.url()), make_live(other.url())
    traffic = Traffic(live)
    workers = live.start_workers(2)
    traffic.send(1500)
    traffic.wait_processed(200)
    follow(elsewhere.client, server)
    in_sync(live.client, elsewhere.client)
    live.client.client_pause(60_000, all=False)  # as an orderly failover does, so that nothing is lost
    in_sync(live.client, elsewhere.client)
    elsewhere.client.replicaof("NO", "ONE")
    follow(live.client, other)
    live.client.client_unpause()
    wait_until(lambda: all("read only" in worker.log() for worker in workers), message="not noticed")
    wait_until(lambda: all("does not answer the lease keeper" in worker.log() for worker in workers), message="not noticed by the lease keeper")
    traffic.live = elsewhere
    traffic.send(100)
    in_sync(elsewhere.client, live.client)
    live.client.replicaof("NO", "ONE")
    traffic.live = live
    traffic.send(100)
    traffic.check()
    for worker in workers:  # an idle loop logs nothing: its lease keeper noticed
        assert worker.running
        assert worker.log().count(LOST) <= 1
        assert worker.log().count("does not answer the lease keeper") == 1


def follow(client: redis.Redis, master: RedisServer) -> None:
    """Make a server a replica, and wait until it has caught up."""
    client.replicaof(master.host, str(master.port))
    wait_until(lambda: client.info("replication").get("master_link_status") == "up")


def in_sync(master: redis.Redis, replica: redis.Redis) -> None:
    """Wait until the replica has everything that its master has now."""
    offset = master.info("replication")["master_repl_offset"]
    wait_until(lambda: replica.info("replication")["slave_repl_offset"] >= offset)
