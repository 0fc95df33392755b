"""Waits until replicas have what was written (`PARTITIONS_WAIT_REPLICAS`), so that a failover loses less.

WAIT follows the commit on the same connection, in the same round trip. The commit is written in any case; if replicas are late, the worker
continues. So a lost replica only slows commits down (by up to `PARTITIONS_WAIT_MILLISECONDS` each), and the worker warns once. To stop
instead, set `min-replicas-to-write` on the server: it then refuses writes, and workers wait.

On a cluster whose servers have replicas, what is sent to another server waits by itself: a source that fails over must not have sent what its
replica has not. Such a commit is followed by WAIT too, and its outbox is sent on when a replica has it, or after `HOLD_SECONDS`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import redis

from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.names import Names
from celery_partitions.store.servers import Servers, lost, server_of
from celery_partitions.store.servers_pipeline import MOVES, REDIRECTS
from celery_partitions_config.settings import Settings

logger = logging.getLogger("celery.worker.partitions")

#: How long what is sent to another server is held back for replicas that do not answer. Longer than a cluster takes to notice that one is gone
#: (`cluster-node-timeout`, 15 seconds by default): from then on the map of slots does not name it, and nothing waits for it.
HOLD_SECONDS = 30.0
#: How long a look at late replicas may take, and the pause before the next one: other partitions wait meanwhile.
LOOK_MILLISECONDS = 100
PAUSE_SECONDS = 0.5


class Replicas:
    """What one worker knows about the replicas of its servers. Used only by the loop's thread.

    `wanted`: how many each commit waits for. None: only what is sent to other servers waits, for one, where the cluster has replicas.
    """

    def __init__(self, wanted: int | None, milliseconds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.wanted, self.milliseconds, self.clock = wanted, milliseconds, clock
        #: Server → since when its replicas are late.
        self._behind: WeakKeyDictionary[redis.Redis, float] = WeakKeyDictionary()
        self._look_at: WeakKeyDictionary[redis.Redis, float] = WeakKeyDictionary()

    @classmethod
    def of(cls, settings: Settings) -> Replicas | None:
        """None: nothing waits."""
        wanted = settings.wait_replicas
        if wanted == 0 or (wanted is None and not settings.partitions_url):
            return None
        # What nobody has set must not be longer than the server has for an answer.
        limit = settings.wait_milliseconds if wanted else min(settings.wait_milliseconds, int(settings.redis_timeout_seconds * 500))
        return cls(wanted, limit)

    def needed(self, client: redis.Redis, server: redis.Redis) -> int:
        """How many replicas of a server what is sent to others waits for."""
        if self.wanted is not None:
            return self.wanted
        if not isinstance(client, Servers):
            return 0
        client.look_again_sometimes()  # replicas come and go, and a busy worker has no other reason to look
        return int(client.has_replicas(server))

    def for_commit(self, client: redis.Redis, server: redis.Redis, *, sends: bool) -> int:
        """How many replicas a commit waits for. `sends`: it has something for another server."""
        if self.wanted is not None:
            return self.wanted
        return self.needed(client, server) if sends and server not in self._behind else 0

    def ask(self, connection: Any, count: int, milliseconds: int | None = None) -> None:
        """Send WAIT. Called right after something was written on this connection."""
        connection.send_command("WAIT", count, self.milliseconds if milliseconds is None else milliseconds)

    def read_answer(self, connection: Any, server: redis.Redis, count: int) -> bool:
        """Read WAIT's answer: whether replicas have it. Warns if they are late. Raises redis-py's errors if the connection breaks."""
        try:
            reached = int(connection.read_response())
        except redis.ResponseError:  # the server has become a replica
            reached = 0
        behind = self._behind.get(server)
        if reached < count and behind is None:
            self._behind[server] = self.clock()
            logger.warning(
                "partitions: only %d of %d replicas (PARTITIONS_WAIT_REPLICAS) have a commit after %d ms; the worker continues, more slowly. "
                "Check the replicas",
                reached,
                count,
                self.milliseconds,
            )
        elif reached >= count and behind is not None:
            del self._behind[server]
            logger.warning("partitions: %d replicas have commits in time again", reached)
        return reached >= count

    def may_look(self, server: redis.Redis) -> bool:
        """Whether the last look at late replicas is long enough ago."""
        return self.clock() >= self._look_at.get(server, 0.0)

    def gave_up(self, server: redis.Redis) -> bool:
        """Whether what is sent was held back for so long that it must go on."""
        return self.clock() - self._behind.get(server, self.clock()) > HOLD_SECONDS

    def read(
        self, client: redis.Redis, names: Names, partition: str, commands: Sequence[Sequence[Any]]
    ) -> tuple[list[Any], bool]:
        """Run commands that read keys of a partition's server. Returns their answers, and whether replicas have what they read. Raises
        redis-py's errors."""
        for _ in range(REDIRECTS):
            try:
                return self._read(client, names.received(partition), commands)
            except MOVES as refusal:
                if isinstance(client, Servers):
                    client.look_again()
                said = str(refusal)
        raise redis.ConnectionError(f"a slot moves from server to server ({said})")

    def _read(self, client: redis.Redis, key: str, commands: Sequence[Sequence[Any]]) -> tuple[list[Any], bool]:
        server = server_of(client, key)
        count = self.needed(client, server)
        # WAIT waits for what its own connection has written, and all before that.
        words = [*commands, ("HSET", key, "", 1)]
        connection: Any = None
        try:
            connection = server.connection_pool.get_connection()
            connection.send_packed_command(connection.pack_commands(words))
            if count:
                self.ask(connection, count, LOOK_MILLISECONDS)
            answers, refusal = [], None
            for _ in words:
                try:
                    answers.append(connection.read_response())
                except redis.ResponseError as error:
                    refusal = refusal or error
            lasts = not count or self.read_answer(connection, server, count)
        except BaseException as error:
            if connection is not None:
                connection.disconnect()
            if isinstance(error, SERVER_ERRORS):
                lost(client, server)
            raise
        finally:
            if connection is not None:
                server.connection_pool.release(connection)
        if refusal is not None:
            raise refusal
        self._look_at[server] = self.clock() + (0.0 if lasts else PAUSE_SECONDS)
        return answers[:-1], lasts
