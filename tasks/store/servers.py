"""One client for partitions on several servers (`PARTITIONS_URL`): each command goes to the server of its key.

It is a `redis.Redis`, so everything in the store works with it as with a client of one server. What needs a connection of its own asks
`server_of` for the client of a key's server.

When a slot has moved, the map of slots is read again and the command is sent again; a server that refused a command has not run it. When a
server does not answer, commands for it fail at once, and a thread asks until it answers: partitions on other servers never wait for it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import redis
from redis.client import Pipeline
from redis.exceptions import AskError, MovedError

from celery_partitions.model.errors import SetupError
from celery_partitions.store.client import connect
from celery_partitions.store.names import Names
from celery_partitions.store.servers_pipeline import NOT_NOW, REDIRECTS, UNREACHABLE, ServersPipeline
from celery_partitions.store.slots import (
    Address,
    Places,
    ServersURL,
    check_place,
    fixed_slots,
    parse_servers,
    replicated_in,
    slots_in,
)
from celery_partitions_config.settings import Settings

#: How often the map of slots is read again while only messages are waited for.
LOOK_SECONDS = 1.0
#: The pauses between two attempts to reach a server that did not answer.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0


class Servers(redis.Redis):
    """The partitions' servers and the control server. Safe for threads."""

    def __init__(self, control: redis.Redis, url: ServersURL, root: str, make: Callable[[str], redis.Redis]) -> None:
        super().__init__(connection_pool=control.connection_pool)
        self.control, self.url, self.root, self.places, self._make = control, url, root, Places(root), make
        self._clients: dict[Address, redis.Redis] = {}
        self._owners: list[Address | None] | None = None if url.is_cluster else fixed_slots(url.addresses)
        self._replicated: frozenset[Address] = frozenset()
        self._lock = threading.Lock()
        self._looked_at = time.monotonic()
        #: Servers that did not answer, until they answer again.
        self._down: set[Address] = set()
        self._process = os.getpid()
        self._closed = False

    # Which server.

    def at(self, key: str | bytes) -> redis.Redis:
        """The client of a key's server. Raises redis-py's `ConnectionError` if that server is known not to answer."""
        slot = self.places.slot(key)
        return self.control if slot is None else self.at_slot(slot)

    def address(self, key: str | bytes) -> str:
        """The server of a key, as host:port. Empty for the control server."""
        slot = self.places.slot(key)
        return "" if slot is None else str(self._owner(slot))

    def all(self) -> dict[Address, redis.Redis]:
        """The partitions' servers, those that do not answer too. Raises redis-py's errors if no map of slots can be read."""
        owners = self._owners if self._owners is not None else self.look_again()
        return {one: self._connected(one) for one in dict.fromkeys(owners) if one is not None}

    def look_again(self) -> list[Address | None]:
        """Read the map of slots. Raises redis-py's `ConnectionError` if no server returns it."""
        if not self.url.is_cluster:
            self._owners = fixed_slots(self.url.addresses)
            return self._owners
        with self._lock:
            candidates = dict.fromkeys([*(one for one in self._clients if one not in self._down), *self.url.addresses])
            last: Exception | None = None
            for address in candidates:
                client = self._connected(address)
                try:
                    answer = client.execute_command("CLUSTER", "SLOTS")
                    self._owners, self._replicated = slots_in(answer, address), replicated_in(answer, address)
                except UNREACHABLE as error:
                    last = error
                    self.lost(client)
                except redis.ResponseError as error:
                    if "cluster support disabled" in str(error):
                        raise SetupError(
                            f"PARTITIONS_URL names a cluster, but {address} is a server without cluster mode. For plain servers, name all of "
                            "them: redis://a:6379,b:6379"
                        ) from None
                    last = error
                else:
                    return self._owners
        raise redis.ConnectionError(f"no server of PARTITIONS_URL answers which server has which slot ({last})")

    def check_places(self) -> None:
        """Raise `SetupError` if the list of plain servers is not as it was. Raises redis-py's errors."""
        for number, address in enumerate(() if self.url.is_cluster else self.url.addresses, 1):
            client, place = self._connected(address), f"{number} of {len(self.url.addresses)}"
            client.set(f"{self.root}:place", place, nx=True)
            check_place(address, place, cast("bytes | None", client.get(f"{self.root}:place")))

    def look_again_sometimes(self) -> None:
        """Read the map of slots once a second: who only waits for messages gets no answer that a slot has moved."""
        now = time.monotonic()
        if self.url.is_cluster and now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            with suppress(*UNREACHABLE):
                self.look_again()

    def has_replicas(self, client: redis.Redis) -> bool:
        """Whether the cluster says that a server has replicas, when the map of slots was last read."""
        return bool(self._replicated) and self._address_of(client) in self._replicated

    def _address_of(self, client: redis.Redis) -> Address | None:
        return next((one for one, known in self._clients.items() if known is client), None)

    def lost(self, client: redis.Redis) -> None:
        """A server did not answer. Until it does, its commands fail at once; another server may take over its slots."""
        address = self._address_of(client)
        if address is None or address in self._down or self._closed:
            return
        self._down.add(address)
        threading.Thread(target=self._wait_for, args=(address,), name=f"server {address}", daemon=True).start()

    def _wait_for(self, address: Address) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._closed:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            try:
                if self.url.is_cluster and address not in self.look_again():
                    break  # another server has its slots
                client = self._make(self.url.of(address))
                try:
                    client.ping()
                finally:
                    client.close()
            except (redis.RedisError, OSError, SetupError):
                continue
            break
        self._down.discard(address)

    def at_slot(self, slot: int) -> redis.Redis:
        """The client of a slot's server. Raises like `at`."""
        return self._client(self._owner(slot))

    def _owner(self, slot: int) -> Address:
        owners = self._owners if self._owners is not None else self.look_again()
        owner = owners[slot]
        if owner is None:
            owner = self.look_again()[slot]
        if owner is None:
            raise redis.ConnectionError(f"no server of the cluster has slot {slot}")
        return owner

    def _client(self, address: Address) -> redis.Redis:
        if self._down and self._process != os.getpid():  # after a fork no thread asks
            self._down, self._process, self._lock = set(), os.getpid(), threading.Lock()
        if address in self._down:
            raise redis.ConnectionError(f"the server {address} does not answer")
        return self._connected(address)

    def _connected(self, address: Address) -> redis.Redis:
        client = self._clients.get(address)
        if client is None:
            client = self._clients.setdefault(address, self._make(self.url.of(address)))
        return client

    # Commands.

    def execute_command(self, *words: Any, **options: Any) -> Any:
        slot = self.places.slot_of_command(words)
        if words[0] in ("DEL", "UNLINK") and len(words) > 2:
            with self.pipeline(transaction=False) as pipe:
                for key in words[1:]:
                    pipe.execute_command(words[0], key)
                return sum(pipe.execute())
        if slot is None:
            return super().execute_command(*words, **options)
        return self._on_server(slot, words, options)

    def _on_server(self, slot: int, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        for _ in range(REDIRECTS):
            client = self.at_slot(slot)
            try:
                return client.execute_command(*words, **options)
            except MovedError:
                self.look_again()
            except AskError as ask:
                return self.asking(ask, words, options)
            except NOT_NOW as refusal:
                raise redis.ConnectionError(str(refusal)) from refusal
            except UNREACHABLE:
                self.lost(client)
                raise
        raise redis.ConnectionError(f"slot {slot} moves from server to server")

    def asking(self, ask: AskError, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Run a command where its slot is being moved to."""
        client = self._connected(Address(ask.host, ask.port))
        with client.pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")
            pipe.execute_command(*words, **options)
            answer = pipe.execute(raise_on_error=False)[1]
        if isinstance(answer, NOT_NOW):
            raise redis.ConnectionError(str(answer)) from answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> ServersPipeline:
        return ServersPipeline(self, transaction)

    def script_load(self, text: Any) -> Any:
        """Load a script on each server that answers."""
        for address, client in self.all().items():
            if address not in self._down:
                try:
                    client.script_load(text)
                except UNREACHABLE:
                    self.lost(client)
        return self.control.script_load(text)

    def scan_iter(self, match: Any = None, count: int | None = None, _type: str | None = None, **more: Any) -> Iterator[Any]:
        """The keys of all servers."""
        for client in (self.control, *self.all().values()):
            yield from client.scan_iter(match, count, _type, **more)

    def announce(self, key: str | bytes) -> None:
        """Notify the workers of an operator's change of a partition's keys. They listen at the control server."""
        if self.places.slot(key) is not None:
            self.control.publish(f"{{{self.root}}}:changed", "")

    def close(self) -> None:
        self._closed = True
        for client in (self.control, *self._clients.values()):
            client.close()


def server_of(client: redis.Redis, key: str | bytes) -> redis.Redis:
    """The client of a key's server: the same client, if there is one server."""
    return client.at(key) if isinstance(client, Servers) else client


def server_at(client: redis.Redis, names: Names, partition: str) -> str:
    """The server of a partition, as host:port. Empty: the control server, or not known."""
    if not isinstance(client, Servers):
        return ""
    try:
        return client.address(names.queue(partition))
    except redis.ConnectionError:
        return "unknown"


def what_there_is(client: redis.Redis) -> Pipeline:
    """A pipeline whose answers are errors where one of several servers can't be reached."""
    pipe = client.pipeline(transaction=False)
    if isinstance(pipe, ServersPipeline):
        pipe.takes_what_there_is = True
    return pipe


def lost(client: redis.Redis, server: redis.Redis) -> None:
    """After a server, from `server_of`, did not answer."""
    if isinstance(client, Servers):
        client.lost(server)


def connect_group(settings: Settings, root: str, patience_seconds: float | None = None) -> redis.Redis:
    """A client for a group's keys. `patience_seconds`: how long to wait for one of several servers; None: as for the control server. Raises
    `SetupError` for an invalid URL."""
    control = connect(settings)
    if not settings.partitions_url:
        return control
    patient = settings if patience_seconds is None else replace(settings, redis_timeout_seconds=min(patience_seconds, settings.redis_timeout_seconds))
    return Servers(control, servers_url(settings), root, lambda url: connect(of_server(patient, url)))


def servers_url(settings: Settings) -> ServersURL:
    """The settings' PARTITIONS_URL. Raises `SetupError` if it is invalid."""
    try:
        return parse_servers(settings.partitions_url)
    except ValueError as error:
        raise SetupError(f"PARTITIONS_URL is invalid: {error}") from None


def of_server(settings: Settings, url: str) -> Settings:
    """The settings for a client of one of the partitions' servers."""
    return replace(settings, redis_url=url, redis_tls_options=())
