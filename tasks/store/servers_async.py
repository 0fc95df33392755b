"""`servers` for asyncio: a `redis.asyncio.Redis` that sends each command to the server of its key. For producers and readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.exceptions import AskError, MovedError

from celery_partitions.store.client import connect_async
from celery_partitions.store.servers import of_server, servers_url
from celery_partitions.store.servers_pipeline import MOVES, NOT_NOW, REDIRECTS
from celery_partitions.store.slots import Address, Places, ServersURL, check_place, fixed_slots, slots_in
from celery_partitions_config.settings import Settings


class AsyncServers(redis.asyncio.Redis):
    """The partitions' servers and the control server, for one event loop."""

    def __init__(self, control: Any, url: ServersURL, root: str, make: Callable[[str], Any]) -> None:
        super().__init__(connection_pool=control.connection_pool)
        self.control, self.url, self.root, self.places, self._make = control, url, root, Places(root), make
        self._clients: dict[Address, Any] = {}
        self._owners: list[Address | None] | None = None if url.is_cluster else fixed_slots(url.addresses)

    async def at(self, key: str | bytes) -> Any:
        """The client of a key's server. Raises redis-py's `ConnectionError`."""
        slot = self.places.slot(key)
        return self.control if slot is None else await self.at_slot(slot)

    async def at_slot(self, slot: int) -> Any:
        owners = self._owners if self._owners is not None else await self.look_again()
        owner = owners[slot]
        if owner is None:
            raise redis.ConnectionError(f"no server of the cluster has slot {slot}")
        return self._connected(owner)

    async def look_again(self) -> list[Address | None]:
        """Read the map of slots. Raises redis-py's `ConnectionError` if no server returns it."""
        if not self.url.is_cluster:
            self._owners = fixed_slots(self.url.addresses)
            return self._owners
        last: Exception | None = None
        for address in dict.fromkeys([*self._clients, *self.url.addresses]):
            try:
                answer = await self._connected(address).execute_command("CLUSTER", "SLOTS")
            except (redis.RedisError, OSError) as error:
                last = error
            else:
                self._owners = slots_in(answer, address)
                return self._owners
        raise redis.ConnectionError(f"no server of PARTITIONS_URL answers which server has which slot ({last})")

    async def check_places(self) -> None:
        """`Servers.check_places`."""
        for number, address in enumerate(() if self.url.is_cluster else self.url.addresses, 1):
            client, place = self._connected(address), f"{number} of {len(self.url.addresses)}"
            await client.set(f"{self.root}:place", place, nx=True)
            check_place(address, place, await client.get(f"{self.root}:place"))

    def _connected(self, address: Address) -> Any:
        if address not in self._clients:
            self._clients[address] = self._make(self.url.of(address))
        return self._clients[address]

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        slot = self.places.slot_of_command(words)
        if slot is None:
            return await super().execute_command(*words, **options)
        for _ in range(REDIRECTS):
            client = await self.at_slot(slot)
            try:
                return await client.execute_command(*words, **options)
            except MovedError:
                await self.look_again()
            except AskError as ask:
                return await self._asking(ask, words, options)
            except NOT_NOW as refusal:
                raise redis.ConnectionError(str(refusal)) from refusal
            except (redis.ConnectionError, redis.TimeoutError, OSError):
                self._owners = None if self.url.is_cluster else self._owners  # another server may take over its slots
                raise
        raise redis.ConnectionError(f"slot {slot} moves from server to server")

    async def _asking(self, ask: AskError, words: Any, options: dict[str, Any]) -> Any:
        async with self._connected(Address(ask.host, ask.port)).pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")
            pipe.execute_command(*words, **options)
            answer = (await pipe.execute(raise_on_error=False))[1]
        if isinstance(answer, NOT_NOW):
            raise redis.ConnectionError(str(answer)) from answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        return _Pipeline(self, transaction)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        for client in (self.control, *self._clients.values()):
            await client.aclose()


class _Pipeline(Pipeline):
    """Sends the commands of each server in one round trip, to all servers at once. Answers are in the order of the commands."""

    def __init__(self, servers: AsyncServers, transaction: bool) -> None:
        super().__init__(servers.connection_pool, servers.response_callbacks, transaction, None)
        self.servers = servers

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        stack: list[Any] = self.command_stack
        self.command_stack = []
        groups: dict[Any, list[int]] = {}
        for number, (words, _) in enumerate(stack):
            slot = self.servers.places.slot_of_command(words)
            client = self.servers.control if slot is None else await self.servers.at_slot(slot)
            groups.setdefault(client, []).append(number)
        if self.is_transaction and len(groups) > 1:
            raise ValueError("a transaction cannot have keys of several servers")
        answers: list[Any] = [None] * len(stack)

        async def run(client: Any, numbers: list[int]) -> None:
            async with client.pipeline(transaction=self.is_transaction) as pipe:
                pipe.command_stack = [stack[number] for number in numbers]
                for number, answer in zip(numbers, await pipe.execute(raise_on_error=False), strict=True):
                    answers[number] = answer

        results = await asyncio.gather(*(run(*one) for one in groups.items()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        for number, answer in enumerate(answers):
            if isinstance(answer, MOVES):
                try:
                    answers[number] = await self.servers.execute_command(*stack[number][0], **stack[number][1])
                except redis.ResponseError as error:
                    answers[number] = error
        if raise_on_error:
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers


async def server_of_async(client: Any, key: str) -> Any:
    """The client of a key's server: the same client, if there is one server."""
    return await client.at(key) if isinstance(client, AsyncServers) else client


def connect_group_async(settings: Settings, root: str) -> Any:
    """A client for a group's keys, for the running event loop. Raises `SetupError` for an invalid URL."""
    control = connect_async(settings)
    if not settings.partitions_url:
        return control
    return AsyncServers(control, servers_url(settings), root, lambda url: connect_async(of_server(settings, url)))
