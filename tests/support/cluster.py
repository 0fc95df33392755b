"""A real cluster of servers as child processes: primaries with equal shares of the slots, and replicas."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_partitions.testing.cluster import join_cluster
from tests.support.proxy import Proxy
from tests.support.server import RedisServer, free_port

SLOTS = 16384


class RedisCluster:
    """`primaries` servers, and for each as many `replicas`. As a context manager it runs inside the block."""

    def __init__(self, primaries: int = 3, replicas: int = 0, *, has_lines: bool = False, **config: str) -> None:
        options = {"cluster-enabled": "yes", "cluster-node-timeout": "2000", "cluster-require-full-coverage": "no", **config}
        # The bus's default port, 10,000 higher, may be in use.
        self.servers = [RedisServer(config={**options, "cluster-port": str(free_port())}) for _ in range(primaries * (1 + replicas))]
        if "tls-cert-file" in config:  # the cluster is formed through a port without TLS
            for server in self.servers:
                server.config["port"] = str(free_port())
        #: `has_lines`: all but the test itself reach a server through its line. Empty: directly.
        self.lines = [Proxy(server.host, server.port) for server in self.servers] if has_lines else []
        for server, line in zip(self.servers, self.lines, strict=False):
            server.config["cluster-announce-port"] = str(line.port)
        self.primaries = self.servers[:primaries]
        self.replicas = self.servers[primaries:]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            for line in self.lines:
                self._stack.enter_context(line)
            for server in self.servers:
                self._stack.enter_context(server)
            self._join()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def url(self) -> str:
        """The cluster as a `PARTITIONS_URL`, with one of its nodes."""
        return f"redis+cluster://{self.servers[0].host}:{(self.lines or self.servers)[0].port}"

    def client(self) -> redis.RedisCluster:
        """redis-py's own client, as a user would have one."""
        return redis.RedisCluster(self.servers[0].host, self.servers[0].port, retry=Retry(NoBackoff(), 0))

    def ask(self, server: RedisServer, *words: Any) -> Any:
        """Send one server a command."""
        with server.client() as client:
            return client.execute_command(*words)

    def id_of(self, server: RedisServer) -> str:
        return str(self.ask(server, "CLUSTER", "MYID").decode())

    def migrate_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move a slot: at once if the servers can (Valkey 9), else key by key."""
        try:
            self.ask(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.id_of(target))
        except redis.ResponseError as error:
            if "unknown subcommand" not in str(error):
                raise
            self.move_slot(slot, source, target)

    def move_slot(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move a slot with its keys, key by key, as redis-cli does."""
        source_id, target_id = self.id_of(source), self.id_of(target)
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.ask(source, "MIGRATE", target.host, target.port, "", 0, 10_000, "KEYS", *keys)
        for server in (target, source, *self.primaries):
            self.ask(server, "CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def replicas_have_all(self) -> bool:
        """Whether each replica has what its primary has written."""
        offsets = [self._replication(server) for server in self.primaries + self.replicas]
        count = len(self.primaries)
        return all(offsets[number % count] == offset for number, offset in enumerate(offsets[count:]))

    def serves_all(self, server: RedisServer) -> bool:
        """Whether all slots have a server that is up, as this one sees it."""
        return f"cluster_slots_ok:{SLOTS}" in self._info(server)

    def _replication(self, server: RedisServer) -> int:
        with server.client() as client:
            info = client.info("replication")
        return int(info.get("slave_repl_offset", info["master_repl_offset"]))

    def _join(self) -> None:
        join_cluster([int(server.config.get("port", server.port)) for server in self.servers], [int(server.config["cluster-port"]) for server in self.servers], len(self.primaries))

    def _info(self, server: RedisServer) -> str:
        return str(self.ask(server, "CLUSTER", "INFO").decode())
