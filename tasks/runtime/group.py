"""A partition group as one process uses it: settings, key names, a connection, and everything built on them."""

from __future__ import annotations

import math
import threading
import time
from functools import cached_property

import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.dead_letters import DeadLetters
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.policies import Policies
from celery_partitions.admin.resize import read_progress
from celery_partitions.admin.state_editor import StateEditor
from celery_partitions.admin.status import PartitionStatus, read_status
from celery_partitions.model.errors import SetupError
from celery_partitions.model.topology import Topology
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.names import Names
from celery_partitions.store.programs import AsyncClients
from celery_partitions.store.server import server_time
from celery_partitions.store.servers import Servers, connect_group
from celery_partitions.store.servers_async import AsyncServers, connect_group_async
from celery_partitions.store.states import StateReader
from celery_partitions.store.topology import agree_on_topology, agreement
from celery_partitions_config.settings import Settings

#: How old a producer's topology may be. After a resize, messages for the former number are forwarded, so this costs only a detour.
FOLLOW_SECONDS = 5.0


class Group:
    """One per process and app. Connects on first use."""

    def __init__(self, settings: Settings, prefix: str = "") -> None:
        self.settings = settings
        self.names = Names(settings.group, prefix, is_spread=bool(settings.partitions_url))
        self.codec = StateCodec(settings.state_signing_keys, settings.state_modules, self.names.root)
        #: The group's computations when `read_overview` last looked. If they are still the same, it needs one round trip.
        self.computations_seen: tuple[str, ...] = ()
        self.async_clients = AsyncClients(lambda: connect_group_async(settings, self.names.root))
        #: The settings' number of partitions, until `check` has compared it with Redis.
        self.topology = Topology(0, settings.partitions)
        #: When to compare it again, by the monotonic clock.
        self._check_at = -math.inf
        self._lock = threading.Lock()

    @cached_property
    def client(self) -> redis.Redis:
        return self.connect()

    def connect(self) -> redis.Redis:
        """A client of its own: for the group's server, or for all servers of `PARTITIONS_URL`."""
        return connect_group(self.settings, self.names.root)

    def check(self) -> None:
        """Check that this process and the group agree on the topology, and take over what Redis has. Again only after some seconds. Raises
        `SetupError` if they don't agree.

        A producer whose access rights (ACL) allow only pushing can't check, and is trusted.
        """
        if time.monotonic() < self._check_at:
            return
        with self._lock:
            if time.monotonic() < self._check_at:
                return
            try:
                if isinstance(self.client, Servers) and self._check_at == -math.inf:
                    self.client.check_places()
                self.follow(agree_on_topology(self.client, self.names, self.settings.partitions))
            except (redis.RedisError, OSError) as error:
                self._not_followed(error)

    async def check_async(self) -> None:
        """The same with the running event loop's client."""
        if time.monotonic() >= self._check_at:
            try:
                client, _ = self.async_clients.current()
                if isinstance(client, AsyncServers) and self._check_at == -math.inf:
                    await client.check_places()
                self.follow(await self.async_clients.run(agreement(self.names, self.settings.partitions)))
            except (redis.RedisError, OSError) as error:
                self._not_followed(error)

    def _not_followed(self, error: Exception) -> None:
        """Raise the error if this process has never read the topology. Later it uses the one it knows: what it does next shows whether the server
        is away."""
        if isinstance(error, redis.exceptions.NoPermissionError):
            self._check_at = math.inf
        elif self._check_at == -math.inf:
            raise error
        else:
            self._check_at = time.monotonic() + FOLLOW_SECONDS

    def follow(self, topology: Topology, again_after: float = FOLLOW_SECONDS) -> None:
        """Use this topology, which was just read from Redis. `again_after`: the seconds after which `check` reads it again."""
        if topology != self.topology:
            self.topology = topology
        self._check_at = time.monotonic() + again_after

    @property
    def states(self) -> StateReader:
        self.check()
        return self.state_reader

    @property
    def state_reader(self) -> StateReader:
        """Reads states without a check of the group."""
        return StateReader(self.client, self.names, self.codec, self.topology)

    @property
    def dead_letters(self) -> DeadLetters:
        self.check()
        return DeadLetters(self.client, self.names, self.topology)

    @property
    def parked_keys(self) -> ParkedKeys:
        self.check()
        return ParkedKeys(self.client, self.names, self.topology, self.audit)

    @property
    def state_editor(self) -> StateEditor:
        """Raises `SetupError` while a resize moves keys: a change could be written where the key's state is no more."""
        self.refuse_while_moving()
        return StateEditor(self.states, self.audit)

    def refuse_while_moving(self) -> None:
        """Read the topology again. Raises `SetupError` while a resize moves keys."""
        self.follow(agree_on_topology(self.client, self.names, self.settings.partitions))
        if self.topology.former is not None and read_progress(self.client, self.names, self.settings.partitions).state == "moving":
            raise SetupError("a resize moves keys between partitions now. Try again when `partitions resize --status` says that all have moved")

    @property
    def policies(self) -> Policies:
        self.check()
        return Policies(self.client, self.names, self.audit)

    @property
    def audit(self) -> Audit:
        return Audit(self.client, self.names)

    def now(self) -> float:
        """The server's time, in seconds since the epoch."""
        return server_time(self.client)

    def status(self) -> list[PartitionStatus]:
        self.check()
        return read_status(self.client, self.names, self.topology.served)
