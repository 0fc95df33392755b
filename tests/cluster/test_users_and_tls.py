"""A cluster with the users of the Redis guide, and a cluster that speaks TLS: workers, producers and readers do their work there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fundamentals.application import Sale, Step, record, sell
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.security.test_acl import ACL
from tests.support.certificates import Authority
from tests.support.cluster import RedisCluster
from tests.support.server import RedisServer
from tests.support.wait import wait_until

#: What the guide adds for a cluster.
OF_CLUSTER = ("+cluster|slots", "+asking")


def give_users(server: RedisServer, *more: str) -> None:
    with server.client() as client:
        for line in ACL.splitlines():
            _, name, *rules = line.split()
            client.execute_command("ACL", "SETUSER", name, "reset", *rules, *more)


def works(live: LiveGroup) -> None:
    """Messages are processed, hop to partitions on other servers, and come through the ingress; states and status can be read."""
    live.start_workers(1)
    totals = [f"{number}-total" for number in range(6)]
    live.send(sell, [Sale("key", number, fails=False, forward_to=total) for number in range(3) for total in totals])
    for total in totals:
        wait_until(lambda total=total: live.numbers_of(sell, total) == [0, 1, 2], PATIENCE_SECONDS, message="a hop does not arrive")
    live.send_task(record.name, {"key": "key", "number": 7})
    wait_until(lambda: live.numbers_of(record, "key") == [7], PATIENCE_SECONDS)
    assert all(row.owner for row in live.group.status())


def test_the_users_of_the_guide_on_a_cluster(tmp_path: Path) -> None:
    with RedisCluster() as cluster, RedisServer() as control:
        give_users(control)
        for server in cluster.primaries:
            give_users(server, *OF_CLUSTER)
        as_worker = "worker:worker-password@"
        url = f"redis://{as_worker}{control.host}:{control.port}/0"
        group = {"PARTITIONS": 6, "PARTITIONS_URL": cluster.url().replace("://", f"://{as_worker}")}
        with LiveGroup(url, tmp_path, **group) as live:
            works(live)
            live.print_logs()
            producer = "producer:producer-password@"
            own = {**group, "PARTITIONS_URL": cluster.url().replace("://", f"://{producer}")}
            with LiveGroup(url.replace(as_worker, producer), tmp_path, **own) as sending:
                sending.send(record, [Step("from a producer", 1)])
            wait_until(lambda: live.numbers_of(record, "from a producer") == [1], PATIENCE_SECONDS)


def test_a_cluster_with_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    options = {"tls-cluster": "yes", "tls-replication": "yes", "tls-ca-cert-file": str(authority.file), **authority.sign("IP:127.0.0.1")}
    try:
        with RedisCluster(**options) as cluster, RedisServer() as control:
            url = cluster.url().replace("redis+cluster", "rediss+cluster")
            env = {"PARTITIONS": 6, "PARTITIONS_URL": url, "PARTITIONS_REDIS_TLS_CA_FILE": authority.file}
            with LiveGroup(control.url(), tmp_path, **env) as live:
                works(live)
                live.print_logs()
    except RuntimeError:
        pytest.skip("this server is built without TLS")
