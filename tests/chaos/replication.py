"""Whether a push is on a replica: only then a failover must not lose it. On one server, and at the control server, every answer counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import redis

from celery_partitions.store.servers import Servers
from tests.fundamentals.live import LiveGroup

#: Longer than a replica lags on a busy machine, shorter than the client's timeout.
WAIT_MILLISECONDS = 1000


class Replication:
    """For one producer."""

    def __init__(self, live: LiveGroup) -> None:
        self.client, self.names = live.client, live.names

    def mark(self, partitions: Iterable[str]) -> Mapping[str, bytes]:
        """Before a push: the history of each partition's server."""
        return {partition: self._history(partition) for partition in partitions if self._is_replicated(partition)}

    def has(self, partition: str, before: Mapping[str, bytes]) -> bool:
        """After a push: whether a replica has it. The server must be the same one, with the same history, before the push and after WAIT."""
        if not self._is_replicated(partition):
            return True
        key = self.names.received(partition)
        try:
            server = self._server(key)
            with server.pipeline(transaction=False) as pipe:
                pipe.hset(key, "", "1")
                pipe.execute_command("WAIT", 1, WAIT_MILLISECONDS)
                _, reached = pipe.execute()
            return bool(reached) and self._history(partition) == before.get(partition)
        except (redis.RedisError, OSError):
            return False

    def _is_replicated(self, partition: str) -> bool:
        return isinstance(self.client, Servers) and self.client.places.slot(self.names.queue(partition)) is not None

    def _history(self, partition: str) -> bytes:
        info = self._server(self.names.queue(partition)).info("replication")
        return f"{info['role']} {info['master_replid']}".encode()

    def _server(self, key: str) -> redis.Redis:
        assert isinstance(self.client, Servers)
        return self.client.at(key)
